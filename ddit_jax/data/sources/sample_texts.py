"""Captions in the files of one sample: plain text, and JSON with fields."""

import json
from collections.abc import Mapping
from typing import Any

# Far above any caption; what is larger is no caption.
MAX_TEXT_BYTES = 2**20


class TextError(ValueError):
  """A text that cannot be used.

  Attributes:
    reason: "bad_text" or "bad_json".
  """

  def __init__(self, reason: str, detail: str):
    super().__init__(" ".join(detail.split()))
    self.reason = reason


def text_of_bytes(data: bytes) -> str:
  """UTF-8, with or without byte order mark, without blanks at the ends.

  Raises:
    TextError: it is not UTF-8.
  """
  try:
    return data.decode("utf-8-sig").strip()
  except UnicodeDecodeError as error:
    raise TextError("bad_text", f"not UTF-8: {error}") from error


def clean_text(value: Any) -> str:
  """A text out of JSON or CSV without blanks at the ends.

  Raises:
    TextError: it is no string, or has half a surrogate pair.
  """
  if not isinstance(value, str):
    raise TextError("bad_text", f"a text is {_shown(value)}, not a string")
  try:
    value.encode()
  except UnicodeEncodeError as error:
    raise TextError("bad_text", f"not Unicode: {error}") from error
  return value.strip()


def clean_texts(value: Any) -> tuple[str, ...]:
  """A string or a list of strings, without the blank ones; None gives ().

  Raises:
    TextError: it is something else.
  """
  if value is None:
    return ()
  values = value if isinstance(value, list | tuple) else [value]
  return tuple(text for text in map(clean_text, values) if text)


def parse_json(data: bytes | str) -> Any:
  """JSON of any kind.

  Raises:
    TextError: it is none, nested too deeply, or names a key twice.
  """
  try:
    text = data.decode("utf-8-sig") if isinstance(data, bytes) else data
    return _DECODER.decode(text)
  # The parser's depth is limited by Python's own recursion limit.
  except (ValueError, RecursionError) as error:
    raise TextError("bad_json", f"no valid JSON: {error}") from error


def parse_object(data: bytes | str) -> dict[str, Any]:
  """A JSON object.

  Raises:
    TextError: as `parse_json`, or it is something else.
  """
  value = parse_json(data)
  if not isinstance(value, dict):
    raise TextError("bad_json", f"not an object but {_shown(value)}")
  return value


def positive_int(values: Mapping[str, Any], key: str) -> int | None:
  """A side in pixels that metadata gives, or None if it gives none."""
  value = values.get(key)
  if isinstance(value, str) and value.isascii() and value.isdigit():
    value = int(value) if len(value) < 10 else None
  if isinstance(value, float) and value.is_integer():
    value = int(value)
  is_side = type(value) is int and value > 0
  return value if is_side else None


def captions(
  plain: tuple[str, ...], rewritten: tuple[str, ...]
) -> tuple[str, ...]:
  """The texts of an example: rewritten ones where there is no other."""
  return plain or rewritten


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  found = dict(pairs)
  if len(found) != len(pairs):
    raise ValueError("an object names a key twice")
  return found


# Making a decoder takes as long as using it on one sample's JSON.
_DECODER = json.JSONDecoder(object_pairs_hook=_without_repetition)


def _shown(value: Any) -> str:
  return f"{type(value).__name__} {value!r:.40}"
