"""Files of the benchmarks: JSON, JSON lines, and the fields that they need."""

import math
import pathlib
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

from ddit_jax.errors import InputError, first_few
from ddit_jax.files import read_regular
from ddit_jax.json_files import parse_json, read_json, text_encoding

# The largest official file, GQA's questions of all splits, has 1.5 GB.
MAX_BYTES = 4 * 2**30
TEXT = (str,)
ID = (int, str)
NUMBER = (int, float)
_NAMES = {
  str: "a text",
  int: "a whole number",
  float: "a number",
  list: "a list",
  dict: "an object",
  bool: "true or false",
}

Record = Mapping[str, Any]


def read_any(path: pathlib.Path) -> Any:
  """The value of a JSON file."""
  return read_json(path, max_bytes=MAX_BYTES)


def read_text(path: pathlib.Path) -> str:
  """The text of a file in UTF-8, or what its byte order mark names."""
  data = read_regular(path)
  try:
    return data.decode(text_encoding(data))
  except UnicodeDecodeError as error:
    raise InputError(f"{path} is not text: {error}") from error


def read_lines(
  path: pathlib.Path, fields: Mapping[str, tuple[type, ...]]
) -> list[Record]:
  """The objects of a file with one JSON object a line; blank lines count not.

  Raises:
    InputError: a line is no object, or lacks one of the fields.
  """
  found = []
  # Not splitlines(): JSON may hold U+2028 and its like unescaped.
  for number, line in enumerate(read_text(path).split("\n"), 1):
    if line.strip():
      try:
        found.append(parse_json(line))
      except ValueError as error:
        raise InputError(
          f"{path}, line {number} is not JSON: {error}"
        ) from error
  return checked(found, fields, where=f"{path}, object")


def read_records(
  path: pathlib.Path, fields: Mapping[str, tuple[type, ...]]
) -> list[Record]:
  """The objects of a file that holds a JSON list."""
  return checked(read_any(path), fields, where=f"{path}, entry")


def read_list_in(
  path: pathlib.Path, name: str, fields: Mapping[str, tuple[type, ...]]
) -> list[Record]:
  """The objects of the list `name` in a file that holds a JSON object."""
  return list_in(read_any(path), path, name, fields)


def read_lists_in(
  path: pathlib.Path, fields: Mapping[str, Mapping[str, tuple[type, ...]]]
) -> list[list[Record]]:
  """As `read_list_in`, of several lists, by the names in `fields`."""
  body = read_any(path)
  return [list_in(body, path, name, some) for name, some in fields.items()]


def list_in(
  body: Any,
  path: pathlib.Path,
  name: str,
  fields: Mapping[str, tuple[type, ...]],
) -> list[Record]:
  """The objects of the list `name` in the value of a JSON file."""
  if not isinstance(body, dict) or name not in body:
    raise InputError(f'{path} must hold a JSON object with a list "{name}"')
  return checked(body[name], fields, where=f"{path}, {name}")


def checked(
  value: Any, fields: Mapping[str, tuple[type, ...]], *, where: str
) -> list[Record]:
  """A list of objects which all have the fields, of the types.

  Raises:
    InputError: another value, or an empty list.
  """
  if not isinstance(value, list):
    raise InputError(f"{where}s: expected a list, got {_shown(value)}")
  if not value:
    raise InputError(f"{where}s: the list is empty, there is nothing to score")
  for number, record in enumerate(value, 1):
    check_fields(record, fields, where=f"{where} {number}")
  return value


def check_fields(
  record: Any, fields: Mapping[str, tuple[type, ...]], *, where: str
) -> None:
  """Raises InputError unless `record` is an object with these fields."""
  if not isinstance(record, dict):
    raise InputError(f"{where}: expected an object, got {_shown(record)}")
  for name, types in fields.items():
    if name not in record:
      raise InputError(f'{where} has no "{name}"')
    value = record[name]
    # JSON's true is no number, though Python's True is.
    if type(value) not in types:
      wanted = " or ".join(_NAMES[one] for one in types)
      raise InputError(f'{where}: "{name}" must be {wanted}, got {value!r:.80}')
    if type(value) is float and not math.isfinite(value):
      raise InputError(f'{where}: "{name}" must be finite, got {value}')


def last_by_id(
  records: Iterable[Record], key: str, value: str
) -> tuple[dict[Any, Any], tuple[str, ...]]:
  """(value of each id, notes): a later record of an id replaces the earlier."""
  records = list(records)
  table = {record[key]: record[value] for record in records}
  if not (repeated := len(records) - len(table)):
    return table, ()
  return table, (
    f"{repeated} predictions repeat a {key}: the last of each counts, as in "
    "the official scorer",
  )


def require_same_ids(
  wanted: Iterable[Hashable],
  given: Iterable[Hashable],
  *,
  what: str,
  official: str,
) -> None:
  """Raises InputError unless predictions and references have the same ids."""
  wanted, given = set(wanted), set(given)
  missing = sorted(wanted - given, key=str)
  extra = sorted(given - wanted, key=str)
  problems = []
  if missing:
    problems.append(
      f"{len(missing)} of {len(wanted)} {what} have no prediction "
      f"({first_few(missing)})"
    )
  if extra:
    problems.append(
      f"{len(extra)} predictions are for other {what} ({first_few(extra)})"
    )
  if problems:
    raise InputError(f"{', and '.join(problems)}: {official}")


def no_repeats(values: Sequence[Hashable], *, what: str, official: str) -> None:
  """Raises InputError if a value is there twice."""
  if len(set(values)) == len(values):
    return
  seen: set[Hashable] = set()
  repeated = [one for one in values if one in seen or seen.add(one)]
  raise InputError(
    f"{len(repeated)} {what} are repeated ({first_few(repeated)}): {official}"
  )


def _shown(value: Any) -> str:
  name = _NAMES.get(type(value))
  return name if isinstance(value, (list, dict)) and name else f"{value!r:.80}"
