"""Files that list records: a JSON list, JSON lines, or CSV with a header."""

import contextlib
import csv
import os
import pathlib
from collections.abc import Iterator
from typing import Any

from ddit_jax.data.sources import sample_texts
from ddit_jax.data.sources.sample_texts import TextError

SUFFIXES = (".json", ".jsonl", ".csv")

# A JSON file is parsed whole, which takes several times its size.
_MAX_JSON_BYTES = 2**34
_MAX_LINE_BYTES = 2**26
# Of one cell; the module's own limit is too small for long captions.
_MAX_CELL_BYTES = 2**24

Entry = dict[str, Any]


def read_json(path: str | os.PathLike) -> Any:
  """The value of a whole file.

  Raises:
    ValueError: it is no JSON, too large, nested too deeply, or an object names
      a key twice.
  """
  path = pathlib.Path(path)
  size = path.stat().st_size
  if size > _MAX_JSON_BYTES:
    raise ValueError(
      f"{path} has {size} bytes, at most {_MAX_JSON_BYTES} are read at once: "
      "write it as JSON lines"
    )
  try:
    return sample_texts.parse_json(path.read_bytes())
  except TextError as error:
    raise ValueError(f"{path} holds {error}") from error


def read_list(path: str | os.PathLike) -> list:
  """The list of a whole file; ValueError as `read_json`, or no list."""
  value = read_json(path)
  if not isinstance(value, list):
    raise ValueError(
      f"{path} must hold a JSON list [...] of records, not "
      f"{type(value).__name__}"
    )
  return value


def entries(path: pathlib.Path) -> Iterator[tuple[str, Entry | TextError]]:
  """(record_id, entry or why it is none) of each record of a file.

  CSV cells are strings, and an empty cell is None.

  Raises:
    ValueError: the file cannot be a list of records at all.
  """
  suffix = path.suffix.lower()
  if suffix == ".json":
    numbered = enumerate(map(_object, read_list(path)))
  elif suffix == ".jsonl":
    numbered = _json_lines(path)
  elif suffix == ".csv":
    numbered = _csv_rows(path)
  else:
    raise ValueError(f"{path} must end in one of {', '.join(SUFFIXES)}")
  for number, entry in numbered:
    yield f"{path.name}:{number}", entry


def csv_header(path: pathlib.Path) -> list[str] | None:
  """The names of a CSV file's columns; None for other files.

  Raises:
    ValueError: a CSV file without a header of different names.
  """
  if path.suffix.lower() != ".csv":
    return None
  with _csv_reader(path) as rows:
    return _header(path, rows)


def _object(value: Any) -> Entry | TextError:
  if isinstance(value, dict):
    return value
  return TextError("bad_json", f"not an object but {type(value).__name__}")


def _json_lines(path: pathlib.Path) -> Iterator[tuple[int, Entry | TextError]]:
  """Blank lines are no records."""
  with open(path, "rb") as file:
    number = 0
    while line := file.readline(_MAX_LINE_BYTES):
      number += 1
      if len(line) == _MAX_LINE_BYTES:
        raise ValueError(
          f"{path}: line {number} is longer than {_MAX_LINE_BYTES} bytes: is "
          "it a JSON list? Then name it .json"
        )
      if not line.strip():
        continue
      try:
        yield number, sample_texts.parse_object(line)
      except TextError as error:
        yield number, error


def _csv_rows(path: pathlib.Path) -> Iterator[tuple[int, Entry | TextError]]:
  with _csv_reader(path) as rows:
    header = _header(path, rows)
    for row in rows:
      if row:
        yield rows.line_num, _named_cells(header, row)


def _header(path: pathlib.Path, rows: Iterator[list[str]]) -> list[str]:
  header = next(rows, [])
  if len(set(header)) != len(header) or not header:
    raise ValueError(f"{path} needs a header of different names: {header}")
  return header


@contextlib.contextmanager
def _csv_reader(path: pathlib.Path) -> Iterator[Any]:
  """A `csv.reader`, whose errors name the line.

  Bytes that are not UTF-8 become halves of surrogate pairs, which `clean_text`
  refuses; so one bad row costs one record.
  """
  with (
    open(
      path, encoding="utf-8-sig", errors="surrogateescape", newline=""
    ) as file,
    _long_cells(),
  ):
    rows = csv.reader(file, strict=True)
    try:
      yield rows
    except csv.Error as error:
      raise ValueError(f"{path}, line {rows.line_num}: {error}") from error


@contextlib.contextmanager
def _long_cells() -> Iterator[None]:
  """The limit belongs to the whole process, so it is put back."""
  before = csv.field_size_limit(_MAX_CELL_BYTES)
  try:
    yield
  finally:
    csv.field_size_limit(before)


def _named_cells(header: list[str], row: list[str]) -> Entry | TextError:
  if len(row) != len(header):
    return TextError("bad_text", f"{len(row)} cells instead of {len(header)}")
  return {name: cell or None for name, cell in zip(header, row, strict=True)}
