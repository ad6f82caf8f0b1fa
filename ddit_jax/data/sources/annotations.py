"""Texts of untrusted files, and files that list records: JSON, JSONL, CSV."""

import contextlib
import csv
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TextIO

from ddit_jax.data.example import BadRecord
from ddit_jax.data.image_header import ImageSize
from ddit_jax.data.sources import parquet_files
from ddit_jax.files import open_regular, read_regular
from ddit_jax.json_files import parse_json, text_encoding

# Far above any caption.
MAX_CAPTION_BYTES = 2**20


class TextError(ValueError):
  """A text that cannot be used.

  Attributes:
    reason: "bad_text", "bad_json", or another one that is counted.
  """

  def __init__(self, reason: str, detail: str):
    super().__init__(" ".join(detail.split()))
    self.reason = reason


@contextlib.contextmanager
def _open_text(path: str | os.PathLike, *, newline: str) -> Iterator[TextIO]:
  """A text file in the encoding that its byte order mark names.

  Bytes that are not UTF-8 become halves of surrogate pairs, which the readers
  of single texts refuse: one bad line costs one record.

  Raises:
    ValueError: it is not in the encoding of its mark.
  """
  # Never waits for a pipe.
  with open_regular(path) as file:
    encoding = text_encoding(file.read(4))
  errors = "surrogateescape" if encoding.startswith("utf-8") else "strict"
  with open(path, encoding=encoding, errors=errors, newline=newline) as file:
    try:
      yield file
    except UnicodeDecodeError as error:
      raise ValueError(f"{path} is cut off or damaged: {error}") from error


def text_of_bytes(data: bytes) -> str:
  """Decodes UTF-8, or what a byte order mark names, and strips it.

  Raises:
    TextError: it is not UTF-8, or not in the encoding of its mark.
  """
  try:
    return _without_nul(data.decode(text_encoding(data)).strip())
  except UnicodeDecodeError as error:
    raise TextError("bad_text", _not_unicode(error)) from error


def _without_nul(text: str) -> str:
  """The text; raises TextError if it holds NUL, as UTF-16 read as UTF-8."""
  if "\0" in text:
    raise TextError(
      "bad_text", "it holds NUL: is it UTF-16 without a byte order mark?"
    )
  return text


def _not_unicode(error: UnicodeDecodeError) -> str:
  where = f"byte {error.start} is {error.object[error.start]:#04x}"
  if error.encoding.startswith("utf-8"):
    return f"not UTF-8 ({where}): save it as UTF-8"
  return f"not the {error.encoding} that its first bytes name ({where})"


def clean_text(value: Any) -> str:
  """A stripped text from JSON or CSV.

  Raises:
    TextError: it is not a string, or has half a surrogate pair.
  """
  if not isinstance(value, str):
    raise TextError("bad_text", f"a text is {_shown(value)}, not a string")
  check_unicode(value)
  return value.strip()


def check_unicode(text: str) -> None:
  """Raises TextError for half a surrogate pair.

  Names of files have them in place of bytes that are not UTF-8.
  """
  try:
    text.encode()
  except UnicodeEncodeError as error:
    raise TextError("bad_text", f"not Unicode: {error}") from error


def clean_texts(value: Any) -> tuple[str, ...]:
  """A string or a list of strings, without blank ones; None gives ().

  Raises:
    TextError: it has another type, or holds NUL.
  """
  if value is None:
    return ()
  values = value if isinstance(value, list | tuple) else [value]
  return tuple(_without_nul(text) for text in map(clean_text, values) if text)


def parse_json_text(data: bytes | str) -> Any:
  """JSON of any kind.

  Raises:
    TextError: it is invalid, nested too deeply, or has a duplicate key.
  """
  try:
    if isinstance(data, str):
      # Refuses what `_open_text` made of bytes that are not UTF-8.
      data.encode()
    return parse_json(data)
  except ValueError as error:
    raise TextError("bad_json", f"not valid JSON: {error}") from error


def parse_object(data: bytes | str) -> dict[str, Any]:
  """A JSON object.

  Raises:
    TextError: as `parse_json_text`, or it is not an object.
  """
  value = parse_json_text(data)
  if not isinstance(value, dict):
    raise TextError("bad_json", f"not an object but {_shown(value)}")
  return value


def positive_int(values: Mapping[str, Any], key: str) -> int | None:
  """A side in pixels from metadata, or None if absent."""
  value = values.get(key)
  if isinstance(value, str) and value.isascii() and value.isdigit():
    value = int(value) if len(value) < 10 else None
  if isinstance(value, float) and value.is_integer():
    value = int(value)
  is_side = type(value) is int and value > 0
  return value if is_side else None


def image_size_of(values: Mapping[str, Any]) -> ImageSize | None:
  """The size given by "height" and "width", or None."""
  height, width = positive_int(values, "height"), positive_int(values, "width")
  return ImageSize(height, width) if height and width else None


def _shown(value: Any) -> str:
  return f"{type(value).__name__} {value!r:.40}"


_SUFFIXES = (".json", ".jsonl", ".csv", ".parquet")

# Parsing a JSON file takes several times its size in memory.
_MAX_JSON_BYTES = 2**34
_MAX_LINE = 2**26
# Of one cell; the module's own limit is too small for long captions.
_MAX_CELL_BYTES = 2**24

Entry = dict[str, Any]


def read_json_file(path: str | os.PathLike) -> Any:
  """Parses a complete JSON file.

  Raises:
    ValueError: it is not JSON, too large, nested too deeply, or an object has a
      duplicate key.
  """
  path = pathlib.Path(path)
  size = path.stat().st_size
  if size > _MAX_JSON_BYTES:
    raise ValueError(
      f"{path} has {size} bytes, at most {_MAX_JSON_BYTES} are read at once: "
      "write it as JSON lines"
    )
  try:
    return parse_json_text(read_regular(path))
  except TextError as error:
    raise ValueError(f"{path} is {error}") from error


def read_list(path: str | os.PathLike) -> list:
  """Parses a file's JSON list; errors as `read_json_file`, or not a list."""
  return _list(path, read_json_file(path))


def _list(path: str | os.PathLike, value: Any) -> list:
  if not isinstance(value, list):
    raise ValueError(
      f"{path} must hold a JSON list [...] of records, not "
      f"{type(value).__name__}"
    )
  return value


# Reads an object with the lists "images" and "annotations".
_CocoReader = Callable[[Mapping[str, Any]], Iterator[Entry | TextError]]


def entries(
  path: pathlib.Path, *, coco: _CocoReader | None = None
) -> Iterator[tuple[str, Entry | TextError]]:
  """(record_id, entry or the reason there is none) of each record.

  CSV cells are strings, and an empty cell is None.

  Args:
    path: JSON, JSON lines (also in a file called .json), CSV or Parquet.
    coco: reads a file in COCO's layout; None refuses it.

  Raises:
    ValueError: the file is not a list of records.
  """
  suffix = path.suffix.lower()
  if suffix == ".jsonl" or _holds_json_lines(path):
    numbered = read_json_lines(path)
  elif suffix == ".json":
    value = read_json_file(path)
    if coco and _is_coco(value):
      found = coco(value)
    else:
      found = map(_object, _list(path, value))
    numbered = enumerate(found)
  elif suffix == ".csv":
    numbered = _csv_rows(path)
  elif suffix == ".parquet":
    numbered = parquet_files.rows(path)
  else:
    raise ValueError(f"{path} must end in one of {', '.join(_SUFFIXES)}")
  for number, entry in numbered:
    yield f"{path.name}:{number}", entry


def _is_coco(value: Any) -> bool:
  """Whether a JSON value has COCO's two lists."""
  return isinstance(value, dict) and all(
    isinstance(value.get(key), list) for key in ("images", "annotations")
  )


def _holds_json_lines(path: pathlib.Path) -> bool:
  """Whether a file called .json holds JSON lines, as POPE's do."""
  if path.suffix.lower() != ".json":
    return False
  try:
    with _open_text(path, newline="\n") as file:
      first, second = (file.readline(_MAX_LINE) for _ in range(2))
    return bool(second.strip()) and isinstance(parse_json_text(first), dict)
  except ValueError:
    return False


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


def read_json_lines(
  path: str | os.PathLike,
) -> Iterator[tuple[int, Entry | TextError]]:
  """(line, its object or the reason there is none) of each line.

  Only line feeds end a line, and blank lines are skipped.

  Raises:
    ValueError: a line is too long.
  """
  with _open_text(path, newline="\n") as file:
    number = 0
    while line := file.readline(_MAX_LINE):
      number += 1
      if len(line) == _MAX_LINE:
        raise ValueError(
          f"{path}: line {number} is longer than {_MAX_LINE} characters: is "
          "it a JSON list? Then name it .json"
        )
      if not line.strip():
        continue
      try:
        yield number, parse_object(line)
      except TextError as error:
        yield number, error


def _csv_rows(path: pathlib.Path) -> Iterator[tuple[int, Entry | TextError]]:
  with _csv_reader(path) as rows:
    header = _header(path, rows)
    for row in rows:
      if row:
        yield rows.line_num, _named_cells(header, row)


def _header(path: pathlib.Path, rows: Iterator[list[str]]) -> list[str]:
  header = [name.strip() for name in next(rows, [])]
  if len(set(header)) != len(header) or not header:
    raise ValueError(f"{path} needs a header of different names: {header}")
  return header


@contextlib.contextmanager
def _csv_reader(path: pathlib.Path) -> Iterator[Any]:
  """A `csv.reader`, whose errors name the line."""
  with _open_text(path, newline="") as file, _long_cells():
    rows = csv.reader(file, strict=True)
    try:
      yield rows
    except csv.Error as error:
      raise ValueError(f"{path}, line {rows.line_num}: {error}") from error


@contextlib.contextmanager
def _long_cells() -> Iterator[None]:
  """The limit is global to the process, so it is restored."""
  before = csv.field_size_limit(_MAX_CELL_BYTES)
  try:
    yield
  finally:
    csv.field_size_limit(before)


def _named_cells(header: list[str], row: list[str]) -> Entry | TextError:
  if len(row) != len(header):
    return TextError("bad_text", f"{len(row)} cells instead of {len(header)}")
  return {name: cell or None for name, cell in zip(header, row, strict=True)}


def texts_of(value: Any, record_id: str) -> tuple[str, ...]:
  """Like `optional_texts_of`, but requires at least one text.

  Raises:
    BadRecord: empty_text, if all are blank; bad_text.
  """
  texts = optional_texts_of(value, record_id)
  if not texts:
    raise BadRecord("empty_text", "no text, or only blank ones", record_id)
  return texts


def optional_texts_of(value: Any, record_id: str) -> tuple[str, ...]:
  """Stripped texts, without the blank ones.

  Args:
    value: str, UTF-8 bytes, a list of these, or None.
    record_id: named in errors.

  Raises:
    BadRecord: bad_text (not UTF-8, or not a text).
  """
  items = value if isinstance(value, list) else [value]
  try:
    texts = [
      text_of_bytes(item)
      if isinstance(item, bytes)
      else _without_nul(clean_text(item))
      for item in items
      if item is not None
    ]
  except TextError as error:
    raise BadRecord(error.reason, str(error), record_id) from error
  return tuple(filter(None, texts))
