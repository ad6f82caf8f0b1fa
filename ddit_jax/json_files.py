"""JSON and hashes of files that may be damaged or hostile."""

import codecs
import concurrent.futures
import hashlib
import json
import os
import pathlib
import threading
from collections.abc import Iterable, Mapping
from typing import Any

from ddit_jax.files import open_regular, replace_file

# Codecs that pass over the mark; the marks of UTF-32 begin with one of UTF-16.
_ENCODINGS = {
  codecs.BOM_UTF8: "utf-8-sig",
  codecs.BOM_UTF32_LE: "utf-32",
  codecs.BOM_UTF32_BE: "utf-32",
  codecs.BOM_UTF16_LE: "utf-16",
  codecs.BOM_UTF16_BE: "utf-16",
}


def text_encoding(start: bytes) -> str:
  """The encoding that a byte order mark names; "utf-8" without one."""
  for mark, name in _ENCODINGS.items():
    if start.startswith(mark):
      return name
  return "utf-8"


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  """A JSON object; Python's parser keeps the last of duplicate names."""
  table = dict(pairs)
  if len(table) != len(pairs):
    keys = [key for key, _ in pairs]
    repeated = next(key for key in keys if keys.count(key) > 1)
    raise ValueError(f"it names {repeated!r} twice")
  return table


# Making a decoder takes as long as using it on one sample's JSON.
_DECODER = json.JSONDecoder(object_pairs_hook=_without_repeats)


def parse_json(data: bytes | str) -> Any:
  """Untrusted JSON of any kind, in the encoding that its first bytes name.

  Raises:
    ValueError: it is invalid, nests too deeply, or names a key twice.
  """
  text = data.decode(text_encoding(data)) if isinstance(data, bytes) else data
  try:
    return _DECODER.decode(text)
  # The parser's depth is limited by Python's own recursion limit.
  except RecursionError as error:
    raise ValueError("it nests too deeply") from error


def read_json(path: pathlib.Path, *, max_bytes: int) -> Any:
  """The value of a JSON file of limited size.

  Raises:
    ValueError: the file is too large, or not JSON.
  """
  with open_regular(path) as file:
    size = os.fstat(file.fileno()).st_size
    if size > max_bytes:
      raise ValueError(f"{path} has {size} bytes, at most {max_bytes} are read")
    data = file.read()
  try:
    return parse_json(data)
  except ValueError as error:
    cause = " ".join(str(error).split())
    raise ValueError(f"{path} is not JSON: {cause}") from error


def read_json_object(path: pathlib.Path, *, max_bytes: int) -> dict[str, Any]:
  """A JSON object from a file of limited size.

  Raises:
    ValueError: the file is too large, not JSON, or not an object.
  """
  body = read_json(path, max_bytes=max_bytes)
  if not isinstance(body, dict):
    raise ValueError(f"{path} must hold a JSON object {{...}}")
  return body


def write_json(
  path: pathlib.Path, value: Any, *, indent: int | None = None
) -> pathlib.Path:
  """Writes a value as a JSON file, atomically; returns its path.

  Raises:
    ValueError: a number is infinite or NaN, which JSON does not have.
  """
  replace_file(path, to_json(value, indent=indent))
  return path


def to_json(value: Any, *, indent: int | None = None) -> bytes:
  """A value as the contents of a JSON file.

  Raises:
    ValueError: as `write_json`.
  """
  return f"{json.dumps(value, indent=indent, allow_nan=False)}\n".encode()


def to_json_lines(rows: Iterable[Mapping[str, Any]]) -> bytes:
  """One JSON object a line.

  Raises:
    ValueError: as `write_json`.
  """
  lines = [f"{json.dumps(row, allow_nan=False)}\n" for row in rows]
  return "".join(lines).encode()


def write_lines(
  path: pathlib.Path, rows: Iterable[Mapping[str, Any]]
) -> pathlib.Path:
  """Writes `to_json_lines` as a file, atomically; returns its path."""
  replace_file(path, to_json_lines(rows))
  return path


_SEAL = "blake2b"
_DIGEST_BYTES = 16
_HASHED_AT_ONCE = 2**22


def file_hash(
  path: str | os.PathLike,
  *,
  digest_bytes: int = _DIGEST_BYTES,
  is_over: threading.Event | None = None,
) -> str:
  """BLAKE2b of a file's bytes, in hex digits.

  Args:
    path: a regular file.
    digest_bytes: length of the hash.
    is_over: when set, hashing stops.

  Raises:
    CancelledError: `is_over` was set.
    InputError: see `open_regular`.
  """
  digest = hashlib.blake2b(digest_size=digest_bytes)
  with open_regular(path) as file:
    while chunk := file.read(_HASHED_AT_ONCE):
      if is_over is not None and is_over.is_set():
        raise concurrent.futures.CancelledError
      digest.update(chunk)
  return digest.hexdigest()


def json_hash(body: Mapping[str, Any]) -> str:
  """BLAKE2b of a JSON object, whatever the order of its keys."""
  text = json.dumps(body, sort_keys=True)
  return hashlib.blake2b(text.encode(), digest_size=_DIGEST_BYTES).hexdigest()


def sealed(body: Mapping[str, Any], *, indent: int | None = None) -> bytes:
  """A JSON object with sorted keys, and under "blake2b" its own hash."""
  whole = dict(body) | {_SEAL: json_hash(body)}
  return (json.dumps(whole, indent=indent, sort_keys=True) + "\n").encode()


def read_sealed(path: pathlib.Path, *, max_bytes: int) -> dict[str, Any]:
  """The object of `sealed`, without its hash.

  Raises:
    ValueError: as `read_json_object`, or any of its values was changed.
  """
  return unsealed(read_json_object(path, max_bytes=max_bytes), path)


def unsealed(body: Mapping[str, Any], path: pathlib.Path) -> dict[str, Any]:
  """An object without its hash; ValueError if that is another one."""
  values = {key: value for key, value in body.items() if key != _SEAL}
  if json_hash(values) != body.get(_SEAL):
    raise ValueError(f"{path} is damaged: its hash is another one")
  return values
