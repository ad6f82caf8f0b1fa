"""One example of a cache of latents as bytes.

Version 1, all numbers little-endian:

  offset 0   4 bytes   magic b"DDLC"
  offset 4   uint16    version, 1
  offset 6   uint16    0
  offset 8   uint32    T, length of the text part in bytes
  offset 12  uint64    M, length of the moments in bytes; 0 without
  offset 20  T bytes   JSON object with exactly the keys of `CachedRecord`,
                       `moments` left out; keys sorted, no blanks, ASCII
  then       M bytes   the moments, whose shape and dtype dataset.json says

The record ends there. Equal examples have equal bytes.
"""

import dataclasses
import json
import struct

from ddit_jax.data.examples import BadRecord

VERSION = 1

_MAGIC = b"DDLC"
_HEADER = struct.Struct("<4sHHIQ")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CachedRecord:
  """What a cache keeps of one record of a source.

  Attributes:
    record_id: where it came from.
    prompt: given text.
    texts: texts to learn.
    rewritten: rewritten captions.
    feature_entries: where the features of each of `texts`, then of
      `rewritten`, lie in the shard of features; None for a text that no
      stream can use. () without features.
    bad_record: (reason, detail) if the source could not read it, else None.
    bad_image: (reason, detail) if only its image cannot be used.
    moments: of its image; None without an image that can be used.
  """

  record_id: str
  prompt: str = ""
  texts: tuple[str, ...] = ()
  rewritten: tuple[str, ...] = ()
  feature_entries: tuple[int | None, ...] = ()
  bad_record: tuple[str, str] | None = None
  bad_image: tuple[str, str] | None = None
  moments: bytes | None = None


_FIELDS = {f.name for f in dataclasses.fields(CachedRecord)} - {"moments"}
_TUPLES = ("texts", "rewritten", "feature_entries")
_REASONS = ("bad_record", "bad_image")


def encode(record: CachedRecord) -> bytes:
  """The bytes of one record."""
  fields = {name: getattr(record, name) for name in _FIELDS}
  # ASCII, as JSON can escape half a character, which UTF-8 cannot hold.
  text = json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
  moments = record.moments or b""
  header = _HEADER.pack(_MAGIC, VERSION, 0, len(text), len(moments))
  return b"".join((header, text, moments))


def decode(data: bytes, where: str) -> CachedRecord:
  """The record that `encode` made the bytes of.

  Args:
    data: one whole record.
    where: its shard and number, for errors.

  Raises:
    BadRecord: corrupt_shard.
  """
  try:
    magic, version, zero, text_length, num_bytes = _HEADER.unpack_from(data)
    begin = _HEADER.size + text_length
    if (magic, version, zero) != (_MAGIC, VERSION, 0):
      raise ValueError(f"starts with {data[:8]!r}")
    if len(data) != begin + num_bytes:
      raise ValueError(f"{len(data)} bytes instead of {begin + num_bytes}")
    fields = json.loads(data[_HEADER.size : begin])
    fields |= {name: tuple(fields[name]) for name in _TUPLES}
    fields |= {
      name: None if fields[name] is None else tuple(fields[name])
      for name in _REASONS
    }
    return CachedRecord(**fields, moments=data[begin:] or None)
  except (KeyError, TypeError, ValueError, struct.error) as error:
    detail = f"{type(error).__name__}: {' '.join(str(error).split())}"
    raise BadRecord("corrupt_shard", detail, where) from error
