"""What a source gives: examples before decoding and tokenising."""

import dataclasses
from collections.abc import Mapping
from typing import Protocol

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
)

_MAX_CHARACTERS = 400
_SHOWN = _MAX_CHARACTERS - len(" ...")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Example:
  """One raw example.

  Attributes:
    record_id: where it came from, for logs.
    image: an encoded JPEG, PNG or WebP file; None for text without an image.
    prompt: given text, e.g. "Q: what is it? A: "; "" for a caption.
    texts: texts to learn; one is drawn at each visit.
    rewritten: rewritten captions; may be empty.
  """

  record_id: str
  image: bytes | None
  prompt: str = ""
  texts: tuple[str, ...]
  rewritten: tuple[str, ...] = ()


class BadRecord(Exception):
  """One record that cannot be used.

  Attributes:
    reason: one of REASONS.
    detail: what was seen, one line of at most 400 characters.
    record_id: which record, the same.
  """

  def __init__(self, reason: str, detail: str, record_id: str):
    if reason not in REASONS:
      raise ValueError(f"unknown reason {reason!r}; there are {REASONS}")
    detail, record_id = _one_line(detail), _one_line(record_id)
    super().__init__(f"{record_id}: {reason}: {detail}")
    self.reason, self.detail, self.record_id = reason, detail, record_id


class Source(Protocol):
  """Examples with random access, read from any thread.

  Attributes:
    name: as the config calls it.
    removed: filter's name to the number of records it left out of the index.
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
  """What was found may be quoted, and be of any size."""
  # Cut first, so that a megabyte costs nothing.
  line = " ".join(text[: 2 * _MAX_CHARACTERS].split())
  return line if len(line) <= _MAX_CHARACTERS else f"{line[:_SHOWN]} ..."


def has_images(source: Source) -> bool:
  """Whether a source may have images: its own `has_images`, True without."""
  return getattr(source, "has_images", True)
