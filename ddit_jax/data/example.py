"""Examples from sources, records for training, and bad records."""

import dataclasses
import json
import struct
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import numpy as np

from ddit_jax.errors import printable

# Why a record could not be used.
REASONS = (
  "missing_file",
  "unreadable_file",
  "not_an_image",
  "truncated_image",
  "image_too_large",
  "bad_json",
  "bad_text",
  "empty_text",
  "wrong_length",
  "unsafe_path",
  "corrupt_shard",
  "equal_pair",
)

_MAX_CHARACTERS = 400
_SHOWN = _MAX_CHARACTERS - len(" ...")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Example:
  """One raw example.

  Attributes:
    record_id: origin of the example, for logs.
    image: an encoded JPEG, PNG or WebP file; None for text without an image.
    prompt: given text, e.g. "Q: what is it? A: "; "" for a caption.
    texts: texts to learn; one is sampled at each visit.
    rewritten: rewritten captions; may be empty.
  """

  record_id: str
  image: bytes | None
  prompt: str = ""
  texts: tuple[str, ...]
  rewritten: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Pair(Example):
  """An example that was preferred to another one of the same prompt.

  Attributes:
    rejected: the other one.
  """

  rejected: Example


class BadRecord(Exception):
  """One record that cannot be used.

  Attributes:
    reason: one of REASONS.
    detail: what was found, one line of at most 400 characters.
    record_id: which record, also at most 400 characters.
  """

  def __init__(self, reason: str, detail: str, record_id: str):
    if reason not in REASONS:
      raise ValueError(f"unknown reason {reason!r}; there are {REASONS}")
    detail, record_id = _one_line(detail), _one_line(record_id)
    super().__init__(f"{record_id}: {reason}: {detail}")
    self.reason, self.detail, self.record_id = reason, detail, record_id

  def facts(self) -> dict[str, str]:
    """For a line of a list of bad records."""
    return {
      "record_id": self.record_id,
      "reason": self.reason,
      "detail": self.detail,
    }

  def __reduce__(self):
    # Worker processes send it; exceptions pickle only their message.
    return BadRecord, (self.reason, self.detail, self.record_id)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingRecord:
  """One example as training reads it, with statistics of reading it.

  Attributes:
    arrays: name to array.
    num_truncated: tokens of the text that were cut off, the end token not
      counted.
    num_unknown: tokens of the text that are in no vocabulary.
    is_animation: whether its image is the first frame of several.
    source: name of the source; "" is not counted.
    bad: records that could not be used and that this one replaces.
  """

  arrays: Mapping[str, np.ndarray]
  num_truncated: int = 0
  num_unknown: int = 0
  is_animation: bool = False
  source: str = ""
  bad: tuple[BadRecord, ...] = ()


@runtime_checkable
class Source(Protocol):
  """Examples with random access, read from any thread.

  Optional attributes: `faults`, the first `BadRecord`s that its index leaves
  out; `has_images`, False if no record has one; `has_pairs`, True if they are
  `Pair`s; `instruction`, the end of its questions' prompts; `image_of(index)`,
  the image that several records share.

  Attributes:
    name: name in the config.
    removed: filter's name to the number of records it removed from the index.
  """

  name: str
  removed: Mapping[str, int]

  def __len__(self) -> int:
    """Number of records after filters."""

  def __getitem__(self, index: int) -> Example:
    """Raises BadRecord if it cannot be read."""

  def fingerprint(self) -> str:
    """Hex digest of which records these are; stable over restarts."""


def _one_line(text: str) -> str:
  """Shortens quoted data, which may be of any size and hold any character."""
  # Truncate first, so that large data costs nothing.
  line = printable(" ".join(text[: 2 * _MAX_CHARACTERS].split()))
  return line if len(line) <= _MAX_CHARACTERS else f"{line[:_SHOWN]} ..."


def has_images(source: Source) -> bool:
  """Whether a source may have images: its `has_images`, by default True."""
  return getattr(source, "has_images", True)


def has_pairs(source: Source) -> bool:
  """Whether its examples are `Pair`s: its `has_pairs`, by default False."""
  return getattr(source, "has_pairs", False)


def instruction_of(source: Source) -> str | None:
  """What all prompts of a source say after the question; "" for nothing.

  None if it has no questions, or each has its own instruction.
  """
  return getattr(source, "instruction", None)


VERSION = 1
_MAX_TEXT_BYTES = 2**24

_MAGIC = b"DDEX"
_HEADER = struct.Struct("<4sHHIQ")
_HAS_IMAGE = 1
_STRINGS = ("prompt", "record_id")
_LISTS = ("rewritten", "texts")


def encode(example: Example) -> bytes:
  """The bytes of one record.

  Raises:
    BadRecord: bad_text, if a text is not valid Unicode or all texts together
      take more than MAX_TEXT_BYTES; or it is one of a `Pair`.
  """
  if isinstance(example, Pair):
    detail = "a preference pair, of which only one example could be stored"
    raise BadRecord("bad_text", detail, example.record_id)
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
  if len(text) > _MAX_TEXT_BYTES:
    detail = f"texts take {len(text)} bytes, at most {_MAX_TEXT_BYTES} may"
    raise BadRecord("bad_text", detail, example.record_id)
  image = b"" if example.image is None else example.image
  flags = 0 if example.image is None else _HAS_IMAGE
  header = _HEADER.pack(_MAGIC, VERSION, flags, len(text), len(image))
  return b"".join((header, text, image))


def decode_example(data: bytes, record_id: str) -> Example:
  """The inverse of `encode`.

  Args:
    data: one whole record.
    record_id: location of the bytes, for errors. The example keeps the
      `record_id` it was encoded with.

  Raises:
    BadRecord: wrong_length, corrupt_shard (not a record of this version),
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
  if len(data) != expected or text > _MAX_TEXT_BYTES:
    detail = f"{len(data)} bytes, the header says {expected} ({text} of text)"
    raise BadRecord("wrong_length", detail, record_id)
  return text, bool(flags)


def _read_fields(text: bytes, record_id: str) -> dict:
  """The JSON object, its keys and types checked."""
  try:
    # ValueError covers bytes that are not UTF-8 and numbers that are too long.
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
    # JSON can escape lone surrogates, which no text file can hold.
    "".join(strings).encode()
  except UnicodeEncodeError as error:
    raise BadRecord("bad_text", str(error), record_id) from error
  return fields
