"""Selects the samples of a tar shard and locates their parts."""

import array
import collections
import dataclasses
import json
import os
import re
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ddit_jax.data.image_header import (
  Filters,
  HeaderError,
  ImageSize,
  image_size,
)
from ddit_jax.data.sources import annotations
from ddit_jax.data.sources.annotations import TextError
from ddit_jax.data.sources.paths import MAX_IMAGE_BYTES
from ddit_jax.data.sources.tar import (
  BLOCK,
  FOLDER,
  HARDLINK,
  SPECIAL,
  SYMLINK,
  CompressedTar,
  DamagedTar,
  Member,
  WindowReader,
  walk,
)

# Offsets count blocks of 512 bytes; block 0 is a header, so 0 means none.
RECORD = np.dtype(
  [
    (f"{part}_{field}", "<u4")
    for part in ("image", "caption", "metadata", "rewritten")
    for field in ("block", "bytes")
  ]
)
# How many skipped samples are named for each reason.
MAX_NAMED = 5

# One RECORD as a list; where each part's two numbers begin.
_Parts = list[int]
_IMAGE, _CAPTION, _METADATA, _REWRITTEN = 0, 2, 4, 6
_PARTS = {
  **dict.fromkeys((b"jpg", b"jpeg", b"jfif", b"png", b"webp"), _IMAGE),
  b"txt": _CAPTION,
  b"json": _METADATA,
  b"recap.txt": _REWRITTEN,
}
_LINKS = {SYMLINK: "symlink", HARDLINK: "hardlink", SPECIAL: "special_file"}
# In a hidden folder, as `paths.is_hidden` names them; "./" is this folder.
_HIDDEN = re.compile(rb"(?:^|/)(?:\.[^/.][^/]*|__MACOSX|@eaDir)/")
_IMAGE_SUFFIXES = (b".jpg", b".jpeg", b".jfif", b".png", b".webp")
_MAX_NAME_BYTES = 4096
_MAX_BLOCKS = 2**32


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleRules:
  """What to read from a shard.

  Attributes:
    filters: which samples are skipped.
    caption_key: of the caption in a sample's JSON.
    rewritten_key: of the rewritten caption in a sample's JSON.
  """

  filters: Filters = Filters()
  caption_key: str = "caption"
  rewritten_key: str = "re_caption"

  def as_json(self) -> dict[str, Any]:
    """In the form that JSON returns."""
    return json.loads(json.dumps(dataclasses.asdict(self)))


@dataclasses.dataclass
class ShardSamples:
  """One shard's contribution to an index.

  Attributes:
    records: bytes of an array of RECORD.
    removed: reason to the number of samples that are skipped.
    named: reason to the first few names that were skipped for it.
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

  The sample at which a damaged shard breaks off is skipped as "corrupt_shard".
  Holds 32 bytes per sample and the names of one sample.

  Raises:
    OSError: the file cannot be read.
    ValueError: it is compressed.
  """
  found, rows = ShardSamples(), array.array("I")
  descriptor = os.open(path, os.O_RDONLY)
  try:
    # The walk is one sample ahead of the reads: two forward windows.
    reader = WindowReader(descriptor)
    for key, parts, reason in _samples(WindowReader(descriptor), found):
      reason = reason or _reason(parts, reader, rules)
      if reason is None:
        rows.extend(parts)
      else:
        found.removed[reason] += 1
        names = found.named.setdefault(reason, [])
        if len(names) < MAX_NAMED:
          shown = key.decode("utf-8", errors="replace")
          names.append(f"{os.path.basename(path)}:{shown}"[:200])
  except CompressedTar as error:
    raise ValueError(f"shard {path} is {error}") from error
  finally:
    os.close(descriptor)
  found.records = np.frombuffer(rows, "=u4").astype("<u4", copy=False).tobytes()
  return found


def _samples(
  reader: WindowReader, found: ShardSamples
) -> Iterator[tuple[bytes, _Parts, str | None]]:
  """(key, its parts, reason to skip it) of each sample."""
  key, parts, reason = None, [0] * 8, None
  try:
    for member in walk(reader):
      if member.kind == FOLDER:
        continue
      member_key, extension = split_name(_in_nfc(member.name))
      if member_key is None:
        if member.name.lower().endswith(_IMAGE_SUFFIXES):
          found.removed["hidden"] += 1
        else:
          found.num_other += 1
        continue
      if member_key != key:
        if key is not None:
          yield key, parts, reason
        key, parts, reason = member_key, [0] * 8, None
      reason = reason or _add(parts, member, extension)
  except DamagedTar as error:
    found.damage = str(error)
    reason = "corrupt_shard"
  if key is not None or reason:
    yield key or b"", parts, reason


def _in_nfc(name: bytes) -> bytes:
  """A name in Unicode's form NFC: archives mix the forms of names."""
  if name.isascii():
    return name
  text = name.decode("utf-8", errors="surrogateescape")
  normal = unicodedata.normalize("NFC", text)
  return normal.encode("utf-8", errors="surrogateescape")


def split_name(name: bytes) -> tuple[bytes | None, bytes | None]:
  """(key, extension) of a member's name.

  An unsafe name is a key without extension; (None, None) belongs to no sample:
  it has no extension, or is hidden.
  """
  if _is_unsafe(name):
    return name, None
  start = name.rfind(b"/") + 1
  dot = name.find(b".", start)
  if dot <= start or _HIDDEN.search(name, 0, start):
    return None, None
  return name[:dot], name[dot + 1 :].lower()


def _is_unsafe(name: bytes) -> bool:
  """Whether a name leads out of a folder; nothing is ever extracted."""
  return (
    name.startswith(b"/")
    or len(name) > _MAX_NAME_BYTES
    or (b".." in name and b".." in name.split(b"/"))
  )


def _add(parts: _Parts, member: Member, extension: bytes | None) -> str | None:
  """Notes a member; the reason if its sample must be skipped."""
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
  most = MAX_IMAGE_BYTES if is_image else annotations.MAX_CAPTION_BYTES
  if member.size > most or block >= _MAX_BLOCKS:
    return "image_too_large" if is_image else "bad_text"
  parts[part : part + 2] = block, member.size
  return None


def _reason(
  parts: _Parts, reader: WindowReader, rules: SampleRules
) -> str | None:
  """Why a sample with sound members is skipped, or None."""
  if not parts[_IMAGE]:
    return "no_image"
  filters = rules.filters
  if filters.drop_empty_captions and not any(parts[_CAPTION:]):
    return "no_text"
  try:
    metadata = {}
    if parts[_METADATA] and (filters.needs_size or filters.drop_empty_captions):
      metadata = annotations.parse_object(_read(parts, _METADATA, reader))
    if filters.needs_size:
      size = annotations.image_size_of(metadata) or _header_size(parts, reader)
      if refused := filters.refused_size(size):
        return refused
    if filters.drop_empty_captions:
      if not _has_text(parts, reader, metadata, rules):
        return "empty_caption"
  except (TextError, HeaderError) as error:
    return error.reason
  return None


def _read(parts: _Parts, part: int, reader: WindowReader) -> bytes:
  block, count = parts[part : part + 2]
  return reader.read(block * BLOCK, count)


def _header_size(parts: _Parts, reader: WindowReader) -> ImageSize:
  start, total = parts[_IMAGE] * BLOCK, parts[_IMAGE + 1]
  return image_size(
    lambda offset, count: reader.read(
      start + offset, max(0, min(count, total - offset))
    )
  )


def _has_text(
  parts: _Parts,
  reader: WindowReader,
  metadata: Mapping[str, Any],
  rules: SampleRules,
) -> bool:
  """Whether any text of a sample is not blank."""
  texts = [
    annotations.text_of_bytes(_read(parts, part, reader))
    for part in (_CAPTION, _REWRITTEN)
    if parts[part]
  ]
  for key in (rules.caption_key, rules.rewritten_key):
    texts += annotations.clean_texts(metadata.get(key))
  return any(texts)
