"""Which parquet columns make an example, and what types they may have."""

import dataclasses
import pathlib
from typing import Any

from ddit_jax.data.examples import BadRecord
from ddit_jax.data.sources import file_lists


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParquetColumns:
  """Which columns make an example.

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


def checked_footer(file: pathlib.Path, columns: ParquetColumns):
  """A file's `pyarrow.parquet.FileMetaData`, its columns checked.

  Raises:
    ValueError: pyarrow is absent, the file is damaged, or a column is missing
      or of another type.
  """
  try:
    import pyarrow
    from pyarrow import parquet
  except ImportError as error:
    raise ValueError(
      f"reading parquet needs pyarrow ({error}): pip install pyarrow"
    ) from error
  file_lists.regular_file_status(file)
  try:
    with parquet.ParquetFile(file) as opened:
      footer, schema = opened.metadata, opened.schema_arrow
  except (pyarrow.ArrowException, OSError) as error:
    cause = " ".join(str(error).split())
    raise ValueError(f"{file} is no whole parquet file: {cause}") from error
  for column in columns.names():
    if schema.names.count(column) != 1:
      raise ValueError(
        f"{file} has {schema.names.count(column)} columns {column!r} instead "
        f"of one: it has {schema.names}"
      )
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


def image_bytes(value: Any, record_id: str) -> bytes:
  """The encoded image in a cell.

  Raises:
    BadRecord: missing_file, if the cell holds none.
  """
  data = value.get("bytes") if isinstance(value, dict) else value
  if data is None:
    path = value.get("path") if isinstance(value, dict) else None
    detail = f"no bytes, only the path {path!r}" if path else "image is null"
    raise BadRecord("missing_file", detail, record_id)
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
