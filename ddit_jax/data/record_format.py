"""One example as bytes: the records inside prepared ArrayRecord shards.

Version 1, all numbers little-endian:

  offset 0   4 bytes   magic b"DDEX"
  offset 4   uint16    version, 1
  offset 6   uint16    flags: bit 0 says that the example has an image; the
                       other bits are 0
  offset 8   uint32    T, length of the text part in bytes, at most 2**24
  offset 12  uint64    I, length of the image part in bytes; 0 without an image
  offset 20  T bytes   UTF-8 JSON object with exactly the keys "prompt" and
                       "record_id" (strings), "rewritten" and "texts" (lists of
                       strings); keys sorted, no blanks
  then       I bytes   the encoded image file, untouched

The record ends there. Equal examples have equal bytes.
"""

import json
import struct

from ddit_jax.data.examples import BadRecord, Example

VERSION = 1
MAX_TEXT_BYTES = 2**24

_MAGIC = b"DDEX"
_HEADER = struct.Struct("<4sHHIQ")
_HAS_IMAGE = 1
_STRINGS = ("prompt", "record_id")
_LISTS = ("rewritten", "texts")


def encode(example: Example) -> bytes:
  """The bytes of one record.

  Raises:
    BadRecord: bad_text, if a text is no valid Unicode or all texts together
      take more than MAX_TEXT_BYTES.
  """
  fields = {
    "prompt": example.prompt,
    "record_id": example.record_id,
    "rewritten": list(example.rewritten),
    "texts": list(example.texts),
  }
  compact = json.dumps(
    fields, ensure_ascii=False, sort_keys=True, separators=(",", ":")
  )
  try:
    text = compact.encode()
  except UnicodeEncodeError as error:
    raise BadRecord("bad_text", str(error), example.record_id) from error
  if len(text) > MAX_TEXT_BYTES:
    detail = f"texts take {len(text)} bytes, at most {MAX_TEXT_BYTES} may"
    raise BadRecord("bad_text", detail, example.record_id)
  image = b"" if example.image is None else example.image
  flags = 0 if example.image is None else _HAS_IMAGE
  header = _HEADER.pack(_MAGIC, VERSION, flags, len(text), len(image))
  return b"".join((header, text, image))


def decode(data: bytes, record_id: str) -> Example:
  """The example that `encode` made the bytes of.

  Args:
    data: one whole record.
    record_id: where the bytes lie; named in errors. The example keeps the
      `record_id` it was encoded with.

  Raises:
    BadRecord: wrong_length, corrupt_shard (no record of this version),
      bad_json or bad_text (not valid Unicode).
  """
  text_length, has_image = _read_header(data, record_id)
  text_end = _HEADER.size + text_length
  fields = _read_fields(data[_HEADER.size : text_end], record_id)
  return Example(
    record_id=fields["record_id"],
    image=data[text_end:] if has_image else None,
    prompt=fields["prompt"],
    texts=tuple(fields["texts"]),
    rewritten=tuple(fields["rewritten"]),
  )


def _read_header(data: bytes, record_id: str) -> tuple[int, bool]:
  """(length of the text part, True if there is an image)."""
  if len(data) < _HEADER.size:
    detail = f"{len(data)} bytes, the header alone takes {_HEADER.size}"
    raise BadRecord("wrong_length", detail, record_id)
  magic, version, flags, text, image = _HEADER.unpack_from(data)
  if magic != _MAGIC:
    detail = f"starts with {magic!r} instead of {_MAGIC!r}"
    raise BadRecord("corrupt_shard", detail, record_id)
  if version != VERSION:
    detail = f"format version {version}, this program reads {VERSION}"
    raise BadRecord("corrupt_shard", detail, record_id)
  if flags & ~_HAS_IMAGE or (image and not flags):
    detail = f"flags {flags:#x} with an image of {image} bytes"
    raise BadRecord("corrupt_shard", detail, record_id)
  expected = _HEADER.size + text + image
  if len(data) != expected or text > MAX_TEXT_BYTES:
    detail = f"{len(data)} bytes, the header says {expected} ({text} of text)"
    raise BadRecord("wrong_length", detail, record_id)
  return text, bool(flags)


def _read_fields(text: bytes, record_id: str) -> dict:
  """The JSON object, its keys and types checked."""
  try:
    # ValueError covers bytes that are no UTF-8 and numbers that are too long.
    fields = json.loads(text.decode())
  except (ValueError, RecursionError) as error:
    detail = " ".join(str(error).split())
    raise BadRecord("bad_json", detail, record_id) from error
  if not isinstance(fields, dict) or set(fields) != {*_STRINGS, *_LISTS}:
    found = sorted(fields) if isinstance(fields, dict) else type(fields)
    detail = f"want the keys {sorted((*_STRINGS, *_LISTS))}, found {found}"
    raise BadRecord("bad_json", detail[:200], record_id)
  for name in _LISTS:
    if not isinstance(fields[name], list):
      raise BadRecord("bad_json", f"{name} is not a list", record_id)
  strings = [fields[name] for name in _STRINGS]
  strings += [text for name in _LISTS for text in fields[name]]
  if not all(isinstance(string, str) for string in strings):
    raise BadRecord("bad_json", "a text is not a string", record_id)
  try:
    # JSON can escape half a character, which no text file can hold.
    "".join(strings).encode()
  except UnicodeEncodeError as error:
    raise BadRecord("bad_text", str(error), record_id) from error
  return fields
