"""Parquet files as Hugging Face datasets store images and texts.

Parquet is read in row groups of a hundred or more rows, so one row costs a
whole group. Recent groups are cached: reading in order is fast, but shuffled
reading of a large set reads a group (for example, ten megabytes) for nearly
every row. `ddit prepare` rewrites such a set as ArrayRecord shards.
"""

import bisect
import dataclasses
import itertools
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from ddit_jax.data.example import BadRecord, Example
from ddit_jax.data.sources.annotations import optional_texts_of, texts_of
from ddit_jax.data.sources.parquet_files import check_row_groups, read_footer
from ddit_jax.data.sources.paths import (
  MAX_IMAGE_BYTES,
  LruCache,
  PathSpec,
  file_facts,
  files_fingerprint,
  list_files,
)
from ddit_jax.data.text import question_prompt


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParquetColumns:
  """The columns of an example.

  Attributes:
    image: encoded images, binary or a struct with a field "bytes"; None for
      texts without images.
    text: a string or a list of strings.
    rewritten: a string or a list of strings, may be null; None for no column.
    question: a string that the texts answer; None for captions.
  """

  image: str | None
  text: str
  rewritten: str | None
  question: str | None

  def names(self) -> list[str]:
    """The columns to read, each once."""
    names = (self.image, self.text, self.rewritten, self.question)
    return [name for name in dict.fromkeys(names) if name is not None]


def _checked_footer(file: pathlib.Path, columns: ParquetColumns):
  """A file's `pyarrow.parquet.FileMetaData`, its columns checked.

  Raises:
    ValueError: pyarrow is absent, the file is damaged, or a column is missing
      or of another type.
  """
  footer, schema = read_footer(file)
  for column in columns.names():
    if schema.names.count(column) != 1:
      raise ValueError(
        f"{file} has {schema.names.count(column)} columns {column!r} instead "
        f"of one: it has {schema.names}"
      )
  check_row_groups(file, footer, columns.names())
  roles = {
    "binary or struct<bytes>": (_holds_images, [columns.image]),
    "string or lists of it": (
      _holds_texts,
      [columns.text, columns.rewritten, columns.question],
    ),
  }
  for wanted, (is_right, names) in roles.items():
    for name in filter(None, names):
      kind = schema.field(name).type
      if not is_right(kind):
        raise ValueError(f"{file}: column {name!r} is {kind}, not {wanted}")
  return footer


def _image_bytes(value: Any, record_id: str) -> bytes:
  """The encoded image in a cell.

  Raises:
    BadRecord: missing_file, if the cell holds none, or image_too_large.
  """
  data = value.get("bytes") if isinstance(value, dict) else value
  if data is None:
    path = value.get("path") if isinstance(value, dict) else None
    detail = f"no bytes, only the path {path!r}" if path else "image is null"
    raise BadRecord("missing_file", detail, record_id)
  if len(data) > MAX_IMAGE_BYTES:
    detail = f"a file of {len(data)} bytes"
    raise BadRecord("image_too_large", detail, record_id)
  return data


def _holds_images(kind) -> bool:
  from pyarrow import types

  if types.is_struct(kind):
    index = kind.get_field_index("bytes")
    return index >= 0 and _holds_images(kind.field(index).type)
  return (
    types.is_binary(kind)
    or types.is_large_binary(kind)
    or types.is_binary_view(kind)
  )


def _holds_texts(kind) -> bool:
  from pyarrow import types

  if types.is_list(kind) or types.is_large_list(kind):
    kind = kind.value_type
  if types.is_dictionary(kind):
    kind = kind.value_type
  return (
    types.is_string(kind)
    or types.is_large_string(kind)
    or types.is_string_view(kind)
  )


# The first word of a file's name, as Hugging Face names the files of a split.
_SPLITS = {"train", "test", "validation", "val", "dev"}


class _ParquetSource:
  """The rows of some files, one file after the other."""

  def __init__(
    self,
    name: str,
    files: Sequence[pathlib.Path],
    *,
    columns: ParquetColumns,
    cached_row_groups: int,
  ):
    """Reads the files' footers.

    Args:
      name: name in the config.
      files: local files, at least one.
      columns: what to read.
      cached_row_groups: row groups kept in memory.

    Raises:
      ValueError: pyarrow is absent, a footer cannot be read, a column is
        missing or of another type, or there are no rows.
    """
    self.name = name
    self.removed: dict[str, int] = {}
    self.has_images = columns.image is not None
    self._files, self._columns = list(files), columns
    self._footers = [_checked_footer(file, columns) for file in files]
    self._row_groups = [
      (file, group)
      for file, footer in enumerate(self._footers)
      for group in range(footer.num_row_groups)
    ]
    self._ends = list(
      itertools.accumulate(
        self._footers[file].row_group(group).num_rows
        for file, group in self._row_groups
      )
    )
    if not len(self):
      raise ValueError(f"the files of {files[0].parent} have no rows")
    self._tables = LruCache(self._read_table, capacity=cached_row_groups)

  def __len__(self) -> int:
    return self._ends[-1] if self._ends else 0

  def __getitem__(self, index: int) -> Example:
    """One row.

    Raises:
      BadRecord: corrupt_shard, missing_file (no image bytes), bad_text or
        empty_text.
      IndexError: index outside 0..len-1.
    """
    if not 0 <= index < len(self):
      raise IndexError(f"{self.name} has {len(self)} records, not {index}")
    group = bisect.bisect_right(self._ends, index)
    start = self._ends[group - 1] if group else 0
    file, group_in_file = self._row_groups[group]
    place = f"{group_in_file}:{index - start}"
    record_id = f"{self._files[file].name}:{place}"
    columns, row = self._columns, self._row(group, index - start, record_id)
    image, prompt = None, ""
    if columns.image:
      image = _image_bytes(row[columns.image], record_id)
    if columns.question:
      prompt = question_prompt(texts_of(row[columns.question], record_id)[0])
    return Example(
      record_id=record_id,
      image=image,
      prompt=prompt,
      texts=texts_of(row[columns.text], record_id),
      rewritten=optional_texts_of(row.get(columns.rewritten), record_id),
    )

  def fingerprint(self) -> str:
    """Digest of the files' names, sizes and times, and of the columns."""
    facts = map(file_facts, self._files)
    return files_fingerprint(repr(self._columns), facts)

  def _row(self, group: int, row: int, record_id: str) -> dict[str, Any]:
    """Column's name to the row's value."""
    import pyarrow

    try:
      table = self._tables[group]
      return {name: table[name][row].as_py() for name in table.column_names}
    except UnicodeDecodeError as error:
      raise BadRecord("bad_text", str(error), record_id) from error
    # A damaged value may name no entry of its dictionary.
    except (pyarrow.ArrowException, OSError) as error:
      detail = " ".join(str(error).split())
      raise BadRecord("corrupt_shard", detail, record_id) from error

  def _read_table(self, group: int):
    """One row group as a table."""
    from pyarrow import parquet

    number, group_in_file = self._row_groups[group]
    footer = self._footers[number]
    # Dictionaries stay as they are: copies of a value may take any memory.
    leaves = [footer.schema.column(i) for i in range(footer.num_columns)]
    texts = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY"]
    # One ParquetFile must not be read by two threads; its footer may be.
    with parquet.ParquetFile(
      self._files[number], metadata=footer, read_dictionary=texts
    ) as file:
      return file.read_row_group(
        group_in_file, columns=self._columns.names(), use_threads=False
      )


def open_parquet(
  name: str,
  *,
  path: PathSpec,
  image_column: str | None = "image",
  text_column: str = "text",
  rewritten_column: str | None = None,
  question_column: str | None = None,
  cached_row_groups: int = 16,
) -> _ParquetSource:
  """Opens local parquet files.

  Args:
    name: name in the config.
    path: a folder with *.parquet files, or a pattern such as
      "data/train-*.parquet", see `list_files`.
    image_column: binary, or Hugging Face's struct of bytes and path; None if
      there are only texts.
    text_column: strings, or lists of strings.
    rewritten_column: the same, for rewritten captions.
    question_column: strings; makes the prompt "Q: ... A: ".
    cached_row_groups: row groups kept in memory; at least the number of
      threads that read in order at once.

  Raises:
    ValueError: no such file, splits mixed in a folder, or what
      `_ParquetSource` raises.
  """
  if type(cached_row_groups) is not int or cached_row_groups < 1:
    raise ValueError(
      "cached_row_groups must be a number of at least 1, got "
      f"{cached_row_groups!r}"
    )
  files = list_files(path, suffixes=(".parquet",))
  _require_one_split(path, files)
  columns = ParquetColumns(
    image=image_column,
    text=text_column,
    rewritten=rewritten_column,
    question=question_column,
  )
  return _ParquetSource(
    name, files, columns=columns, cached_row_groups=cached_row_groups
  )


def _require_one_split(path: PathSpec, files: Sequence[pathlib.Path]) -> None:
  """Raises ValueError if a folder's files are of several splits."""
  splits = sorted({file.name.partition("-")[0] for file in files} & _SPLITS)
  if len(splits) > 1 and isinstance(path, str) and os.path.isdir(path):
    raise ValueError(
      f"{path} holds the splits {' and '.join(splits)}: choose one with a "
      f"pattern such as {path}/{splits[-1]}-*.parquet"
    )
