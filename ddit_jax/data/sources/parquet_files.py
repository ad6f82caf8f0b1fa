"""Parquet files that others wrote: footers, memory, and rows in order."""

import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

from ddit_jax.data.sources.paths import file_facts

# Of a row group, which is decoded to read any of its rows.
_MAX_GROUP_BYTES = 2**31
# Of an element of a column: its index in a dictionary and its levels.
_ELEMENT_BYTES = 8


def read_footer(file: pathlib.Path) -> tuple[Any, Any]:
  """A file's `pyarrow.parquet.FileMetaData` and its `pyarrow.Schema`.

  Raises:
    ValueError: pyarrow is absent, or the file is damaged.
  """
  try:
    import pyarrow
    from pyarrow import parquet
  except ImportError as error:
    raise ValueError(
      f"reading parquet needs pyarrow ({error}): pip install pyarrow"
    ) from error
  file_facts(file)
  try:
    with parquet.ParquetFile(file) as opened:
      return opened.metadata, opened.schema_arrow
  except (pyarrow.ArrowException, OSError) as error:
    raise _damaged(file, error) from error


def check_row_groups(
  file: pathlib.Path, footer: Any, columns: Iterable[str]
) -> None:
  """Raises ValueError if reading a row would take too much memory.

  A file of a few kilobytes may hold gigabytes: equal values compress well.
  """
  columns = set(columns)
  for number in range(footer.num_row_groups):
    group = footer.row_group(number)
    chunks = [group.column(leaf) for leaf in range(group.num_columns)]
    num_bytes = sum(
      chunk.total_uncompressed_size + _ELEMENT_BYTES * chunk.num_values
      for chunk in chunks
      if chunk.path_in_schema.partition(".")[0] in columns
    )
    if num_bytes > _MAX_GROUP_BYTES:
      raise ValueError(
        f"{file}: row group {number} takes {num_bytes / 1e9:.3g} GB in memory, "
        f"at most {_MAX_GROUP_BYTES / 1e9:.3g} are read for one row: write it "
        "with fewer rows in a group (row_group_size=100 of pyarrow)"
      )


def rows(file: pathlib.Path) -> Iterator[tuple[int, dict[str, Any]]]:
  """(number, values by column) of each row: texts and numbers alone.

  Raises:
    ValueError: as `read_footer` and `check_row_groups`; or a value is damaged.
  """
  footer, schema = read_footer(file)
  import pyarrow
  from pyarrow import parquet

  columns = [field.name for field in schema if _is_plain(field.type)]
  check_row_groups(file, footer, columns)
  number = 0
  try:
    with parquet.ParquetFile(file) as opened:
      for batch in opened.iter_batches(columns=columns, use_threads=False):
        for row in batch.to_pylist():
          yield number, row
          number += 1
  except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
    raise _damaged(file, error) from error


def _is_plain(kind: Any) -> bool:
  from pyarrow import types

  if types.is_list(kind) or types.is_large_list(kind):
    kind = kind.value_type
  # Python has no dates as far away as files may have them.
  return not (
    types.is_nested(kind) or types.is_temporal(kind) or _is_binary(kind)
  )


def _is_binary(kind: Any) -> bool:
  from pyarrow import types

  return (
    types.is_binary(kind)
    or types.is_large_binary(kind)
    or types.is_binary_view(kind)
    or types.is_fixed_size_binary(kind)
  )


def _damaged(file: pathlib.Path, error: Exception) -> ValueError:
  cause = " ".join(str(error).split())
  return ValueError(f"{file} is not a whole parquet file: {cause}")
