"""Finds the samples of one WebDataset shard and decides which are kept.

Members are grouped by key as WebDataset does: the name up to the first dot
after its last slash; members of one sample follow each other.
"""

import array
import collections
import dataclasses
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from ddit_jax.data.filters import Filters
from ddit_jax.data.image_headers import HeaderError, ImageSize, image_size
from ddit_jax.data.sources import sample_texts, tar_walk
from ddit_jax.data.sources.sample_texts import TextError
from ddit_jax.data.sources.tar_walk import BLOCK, Member, WindowReader

# Offsets count blocks of 512 bytes; block 0 is a header, so 0 means none.
RECORD = np.dtype(
  [
    (f"{part}_{field}", "<u4")
    for part in ("image", "caption", "metadata", "rewritten")
    for field in ("block", "bytes")
  ]
)
# Where each part's two numbers begin.
_IMAGE, _CAPTION, _METADATA, _REWRITTEN = 0, 2, 4, 6
MAX_IMAGE_BYTES = 2**28

_PARTS = {
  **dict.fromkeys((b"jpg", b"jpeg", b"png", b"webp"), _IMAGE),
  b"txt": _CAPTION,
  b"json": _METADATA,
  b"recap.txt": _REWRITTEN,
}
_LINKS = {
  tar_walk.SYMLINK: "symlink",
  tar_walk.HARDLINK: "hardlink",
  tar_walk.SPECIAL: "special_file",
}
_MAX_NAME_BYTES = 4096
_MAX_BLOCKS = 2**32
_NAMED = 5

# One RECORD as a list.
Parts = list[int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleRules:
  """What is looked for in a shard.

  Attributes:
    filters: what is left out.
    caption_key: of the caption in a sample's JSON.
    rewritten_key: of the rewritten caption in a sample's JSON.
  """

  filters: Filters = Filters()
  caption_key: str = "caption"
  rewritten_key: str = "re_caption"


@dataclasses.dataclass
class ShardSamples:
  """What one shard gives to an index.

  Attributes:
    records: bytes of an array of RECORD.
    removed: reason to the number of samples left out.
    named: reason to the first few names that were left out for it.
    num_other: members that belong to no sample.
    damage: why the walk ended early, or None.
  """

  records: bytes = b""
  removed: collections.Counter = dataclasses.field(
    default_factory=collections.Counter
  )
  named: dict[str, list[str]] = dataclasses.field(default_factory=dict)
  num_other: int = 0
  damage: str | None = None


def shard_samples(path: str, rules: SampleRules) -> ShardSamples:
  """Reads a shard's headers, and texts and image headers as rules need them.

  The sample at which a damaged shard breaks off is left out as
  "corrupt_shard". Holds 32 bytes a sample and the names of one sample.

  Raises:
    OSError: the file cannot be read.
    ValueError: it is compressed.
  """
  found, rows = ShardSamples(), array.array("I")
  descriptor = os.open(path, os.O_RDONLY)
  try:
    # The walk is a sample ahead of what is read: two windows, each forwards.
    reader = WindowReader(descriptor)
    for key, parts, reason in _samples(WindowReader(descriptor), found):
      reason = reason or _reason(parts, reader, rules)
      if reason is None:
        rows.extend(parts)
      else:
        found.removed[reason] += 1
        names = found.named.setdefault(reason, [])
        if len(names) < _NAMED:
          names.append(f"{os.path.basename(path)}:{key}"[:200])
  except tar_walk.CompressedTar as error:
    raise ValueError(f"shard {path} is {error}") from error
  finally:
    os.close(descriptor)
  found.records = np.frombuffer(rows, "=u4").astype("<u4", copy=False).tobytes()
  return found


def _samples(
  reader: WindowReader, found: ShardSamples
) -> Iterator[tuple[str, Parts, str | None]]:
  """(key, its parts, reason to leave it out) of each sample."""
  key, parts, reason = None, [0] * 8, None
  try:
    for member in tar_walk.walk(reader):
      if member.kind == tar_walk.FOLDER:
        continue
      member_key, extension = split_name(member.name)
      if member_key is None:
        found.num_other += 1
        continue
      if member_key != key:
        if key is not None:
          yield _text(key), parts, reason
        key, parts, reason = member_key, [0] * 8, None
      reason = reason or _add(parts, member, extension)
  except tar_walk.DamagedTar as error:
    found.damage = str(error)
    reason = "corrupt_shard"
  if key is not None:
    yield _text(key), parts, reason
  elif reason:
    yield "", parts, reason


def split_name(name: bytes) -> tuple[bytes | None, bytes | None]:
  """(key, extension) of a member's name.

  An unsafe name is a key without extension; (None, None) belongs to no sample.
  """
  if _is_unsafe(name):
    return name, None
  start = name.rfind(b"/") + 1
  dot = name.find(b".", start)
  if dot <= start:
    return None, None
  return name[:dot], name[dot + 1 :].lower()


def _is_unsafe(name: bytes) -> bool:
  """Names that would lead out of a folder; nothing is ever extracted."""
  return (
    name.startswith(b"/")
    or len(name) > _MAX_NAME_BYTES
    or (b".." in name and b".." in name.split(b"/"))
  )


def _add(parts: Parts, member: Member, extension: bytes | None) -> str | None:
  """Notes a member; the reason if its sample must be left out."""
  if extension is None:
    return "unsafe_path"
  if member.kind in _LINKS:
    return _LINKS[member.kind]
  part = _PARTS.get(extension)
  if part is None:
    return None
  if parts[part]:
    return "duplicate_member"
  block, is_image = member.offset // BLOCK, part == _IMAGE
  most = MAX_IMAGE_BYTES if is_image else sample_texts.MAX_TEXT_BYTES
  if member.size > most or block >= _MAX_BLOCKS:
    return "image_too_large" if is_image else "bad_text"
  parts[part : part + 2] = block, member.size
  return None


def _reason(
  parts: Parts, reader: WindowReader, rules: SampleRules
) -> str | None:
  """Why a sample with sound members is left out, or None."""
  if not parts[_IMAGE]:
    return "no_image"
  if not any(parts[_CAPTION:]):
    return "no_text"
  filters = rules.filters
  try:
    metadata = {}
    if parts[_METADATA] and (filters.needs_size or filters.drop_empty_captions):
      metadata = sample_texts.parse_object(_read(parts, _METADATA, reader))
    if filters.needs_size:
      size = _size(metadata) or _header_size(parts, reader)
      if refused := filters.refused_size(size):
        return refused
    if filters.drop_empty_captions and not _has_text(
      parts, reader, metadata, rules
    ):
      return "empty_caption"
  except (TextError, HeaderError) as error:
    return error.reason
  return None


def _read(parts: Parts, part: int, reader: WindowReader) -> bytes:
  block, count = parts[part : part + 2]
  return reader.read(block * BLOCK, count)


def _size(metadata: dict[str, Any]) -> ImageSize | None:
  height = sample_texts.positive_int(metadata, "height")
  width = sample_texts.positive_int(metadata, "width")
  return ImageSize(height, width) if height and width else None


def _header_size(parts: Parts, reader: WindowReader) -> ImageSize:
  start, total = parts[_IMAGE] * BLOCK, parts[_IMAGE + 1]
  return image_size(
    lambda offset, count: reader.read(
      start + offset, max(0, min(count, total - offset))
    )
  )


def _has_text(
  parts: Parts,
  reader: WindowReader,
  metadata: dict[str, Any],
  rules: SampleRules,
) -> bool:
  """Whether any text of a sample is not blank."""
  texts = [
    sample_texts.text_of_bytes(_read(parts, part, reader))
    for part in (_CAPTION, _REWRITTEN)
    if parts[part]
  ]
  for key in (rules.caption_key, rules.rewritten_key):
    texts += sample_texts.clean_texts(metadata.get(key))
  return any(texts)


def _text(key: bytes) -> str:
  return key.decode("utf-8", errors="replace")
