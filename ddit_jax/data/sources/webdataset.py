"""WebDataset tar shards with random access: records are read in place."""

import array
import collections
import concurrent.futures
import dataclasses
import hashlib
import json
import logging
import multiprocessing
import os
import pathlib
import stat
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from ddit_jax.data.example import BadRecord, Example
from ddit_jax.data.image import (
  Filters,
  HeaderError,
  ImageSize,
  filters_from,
  image_size,
  with_hint,
)
from ddit_jax.data.sources import annotations, paths
from ddit_jax.data.sources.annotations import TextError
from ddit_jax.data.sources.paths import (
  ChangedFile,
  OpenFile,
  OpenFiles,
  PathSpec,
)
from ddit_jax.files import appearing_file

BLOCK = 512
REGULAR, FOLDER, SYMLINK, HARDLINK, SPECIAL = range(5)

# One read often serves a header, a small member and the next header.
_WINDOW = 8192
# Long names and pax records; a hostile file may claim any size.
_MAX_EXTENSION_BYTES = 2**20
# Writers pad their last record; 10 KiB is usual.
_MAX_PADDING_BYTES = 2**22
_END = bytes(BLOCK)
_ADLER_BASE = 65_521
_KINDS = {
  ord("1"): HARDLINK,
  ord("2"): SYMLINK,
  ord("3"): SPECIAL,
  ord("4"): SPECIAL,
  ord("5"): FOLDER,
  ord("6"): SPECIAL,
}
_GNU_LONG_NAME, _GNU_LONG_LINK, _GNU_SPARSE = b"LKS"
_PAX, _PAX_GLOBAL = b"xg"
_EXTENSIONS = frozenset(b"LKxg")


_COMPRESSED = {
  b"\x1f\x8b": "gzip",
  b"BZh": "bzip2",
  b"\xfd7zXZ\0": "xz",
  b"\x28\xb5\x2f\xfd": "zstandard",
  b"\x04\x22\x4d\x18": "lz4",
}


class DamagedTar(ValueError):
  """The walk cannot go on; what was found before is sound."""


class CompressedTar(ValueError):
  """A compressed file, of which nothing can be read in place."""


class Member(NamedTuple):
  """One member of a tar file.

  Attributes:
    name: as stored, of any encoding.
    kind: REGULAR, FOLDER, SYMLINK, HARDLINK or SPECIAL.
    offset: of its data, a multiple of BLOCK.
    size: of its data, bytes.
  """

  name: bytes
  kind: int
  offset: int
  size: int


class WindowReader:
  """Reads an open file in windows, so that small reads need few calls.

  Attributes:
    size: of the file, bytes.
  """

  def __init__(self, descriptor: int):
    self.size = os.fstat(descriptor).st_size
    self._descriptor = descriptor
    self._start, self._window = 0, b""

  def read(self, offset: int, count: int) -> bytes:
    """Bytes at an offset; fewer at the end of the file."""
    begin = offset - self._start
    stop = begin + count
    if begin < 0 or stop > len(self._window):
      self._window = os.pread(self._descriptor, max(count, _WINDOW), offset)
      self._start, begin, stop = offset, 0, count
    return self._window[begin:stop]


def walk(reader: WindowReader) -> Iterator[Member]:
  """Members in the order of the file; folders and links too.

  Raises:
    DamagedTar: a wrong checksum or size, a member or the end cut off, or data
      behind the end.
    CompressedTar: at the beginning, if it is compressed.
  """
  offset, extended = 0, {}
  while (block := reader.read(offset, BLOCK)) != _END:
    if len(block) < BLOCK:
      _check_plain(block)
      raise DamagedTar(f"no end marker: cut off at byte {reader.size}")
    if not _is_checksum_right(block):
      _check_plain(block)
      raise DamagedTar(f"wrong checksum of the header at byte {offset}")
    start, kind = offset + BLOCK, block[156]
    size = extended.get("size", _number(block[124:136], offset))
    if kind in _EXTENSIONS:
      extended |= _extension(reader, kind, start, size)
      offset = start + -(-size // BLOCK) * BLOCK
      continue
    if kind == _GNU_SPARSE or "sparse" in extended:
      raise DamagedTar(f"sparse member at byte {offset}: not supported")
    name = extended.get("name") or stored_name(block)
    kind = _KINDS.get(kind, REGULAR)
    if kind == REGULAR and name.endswith(b"/"):
      kind = FOLDER
    # Only regular members have data, whatever the size field says.
    stop = start + size if kind == REGULAR else start
    if stop > reader.size:
      raise DamagedTar(
        f"the member at byte {offset} claims {size} bytes, the file has "
        f"{reader.size - start} left"
      )
    yield Member(name, kind, start, size)
    offset, extended = start + -(-(stop - start) // BLOCK) * BLOCK, {}
  _check_rest(reader, offset)


def is_header(block: bytes) -> bool:
  """Whether these 512 bytes are a member's header."""
  return len(block) == BLOCK and block != _END and _is_checksum_right(block)


def stored_name(block: bytes) -> bytes:
  """A header's own name; where an extension gives a long one, cut off."""
  name = block[:100].partition(b"\0")[0]
  # GNU's own format has other fields in the place of the prefix.
  if block[257:263] == b"ustar\0" and block[345]:
    return block[345:500].partition(b"\0")[0] + b"/" + name
  return name


def _is_checksum_right(block: bytes) -> bool:
  """Compares the sum of a header's bytes, its own field taken as blanks."""
  field = block[148:156].strip(b" \0")
  if not field.isdigit():
    return False
  try:
    stored = int(field, 8)
  except ValueError:
    return False
  blanked = b"".join((block[:148], b"        ", block[156:]))
  # Adler-32's lower half is one plus the sum: twenty times as fast as sum().
  if zlib.adler32(blanked) & 0xFFFF == (stored + 1) % _ADLER_BASE:
    return True
  # Some old writers added signed bytes.
  return sum(byte - 256 * (byte > 127) for byte in blanked) == stored


def _check_plain(start: bytes) -> None:
  """Raises CompressedTar for what is no header but a known signature."""
  for signature, name in _COMPRESSED.items():
    if start.startswith(signature):
      raise CompressedTar(
        f"compressed with {name}, so that records cannot be read in place: "
        "decompress it (images gain nothing by compression)"
      )


def _number(field: bytes, offset: int) -> int:
  """Octal digits, or GNU's base 256 where the first bit is set."""
  if field[0] == 0x80:
    return int.from_bytes(field[1:], "big")
  digits = field.strip(b" \0")
  try:
    # int() would also take signs and underscores.
    if digits.isdigit():
      return int(digits, 8)
  except ValueError:
    pass
  if not digits:
    return 0
  raise DamagedTar(f"the header at byte {offset} has the size {field!r}")


def _extension(
  reader: WindowReader, kind: int, start: int, size: int
) -> dict[str, bytes | int]:
  """What an extension header says of the next member."""
  if size > _MAX_EXTENSION_BYTES:
    raise DamagedTar(f"an extension header of {size} bytes at byte {start}")
  body = reader.read(start, size)
  if len(body) < size:
    raise DamagedTar(f"cut off in the extension header at byte {start}")
  if kind == _GNU_LONG_NAME:
    return {"name": body.partition(b"\0")[0]}
  if kind == _GNU_LONG_LINK:
    return {}
  found = _pax_records(body, start)
  if kind == _PAX_GLOBAL and found:
    raise DamagedTar(f"names or sizes for all members at byte {start}")
  return found


def _pax_records(body: bytes, start: int) -> dict[str, bytes | int]:
  """Name, size and sparseness from records "LENGTH KEY=VALUE\\n"."""
  found = {}
  while body:
    digits, _, _ = body.partition(b" ")
    length = int(digits) if digits.isdigit() and len(digits) < 8 else 0
    record, body = body[:length], body[length:]
    key, equals, value = record[len(digits) + 1 :].partition(b"=")
    if not equals or not value.endswith(b"\n"):
      raise DamagedTar(f"a damaged pax record at byte {start}")
    value = value[:-1]
    if key == b"path":
      found["name"] = value
    elif key == b"size":
      if not value.isdigit() or len(value) > 19:
        raise DamagedTar(f"a pax size {value[:20]!r} at byte {start}")
      found["size"] = int(value)
    elif key.startswith(b"GNU.sparse."):
      found["sparse"] = 1
  return found


def _check_rest(reader: WindowReader, offset: int) -> None:
  """Raises DamagedTar if more than padding follows the end marker."""
  rest = reader.read(offset, min(reader.size - offset, _MAX_PADDING_BYTES + 1))
  if len(rest) > _MAX_PADDING_BYTES or rest.count(0) != len(rest):
    raise DamagedTar(
      f"data behind the end marker at byte {offset}: joined tar files are not "
      "supported, list them one by one"
    )


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
  SYMLINK: "symlink",
  HARDLINK: "hardlink",
  SPECIAL: "special_file",
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
  except CompressedTar as error:
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
    for member in walk(reader):
      if member.kind == FOLDER:
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
  except DamagedTar as error:
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
  most = MAX_IMAGE_BYTES if is_image else annotations.MAX_TEXT_BYTES
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
      metadata = annotations.parse_object(_read(parts, _METADATA, reader))
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
  height = annotations.positive_int(metadata, "height")
  width = annotations.positive_int(metadata, "width")
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
    annotations.text_of_bytes(_read(parts, part, reader))
    for part in (_CAPTION, _REWRITTEN)
    if parts[part]
  ]
  for key in (rules.caption_key, rules.rewritten_key):
    texts += annotations.clean_texts(metadata.get(key))
  return any(texts)


def _text(key: bytes) -> str:
  return key.decode("utf-8", errors="replace")


VERSION = 1

_MAGIC = b"ddit tar index\0\1"
_LENGTH_BYTES = 8
_TAIL_BYTES = _LENGTH_BYTES + len(_MAGIC)
_MAX_FOOTER_BYTES = 2**30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shard:
  """One tar file when it was indexed.

  Attributes:
    name: path below the folder that all shards share.
    num_bytes: its size.
    mtime_ns: when it was last changed.
  """

  name: str
  num_bytes: int
  mtime_ns: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class IndexReport:
  """What building an index saw.

  Attributes:
    removed: reason to the number of samples left out.
    named: reason to the first few names left out for it.
    damaged: shard that breaks off to what is wrong with it.
    num_other: members that belong to no sample, for want of an extension.
    seconds: that building took.
  """

  removed: dict[str, int]
  named: dict[str, list[str]]
  damaged: dict[str, str]
  num_other: int
  seconds: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class TarIndex:
  """An open index.

  Attributes:
    records: RECORD [samples], memory-mapped.
    ends: int64 [shards], number of samples up to and with each shard.
    report: what building it saw.
  """

  records: np.ndarray
  ends: np.ndarray
  report: IndexReport


@dataclasses.dataclass(frozen=True, kw_only=True)
class Footer:
  """What the records of a file are.

  Attributes:
    rules: that samples were chosen by, as JSON gives them back.
    shards: in order.
    counts: number of samples in each.
    report: what building the index saw.
  """

  rules: dict[str, Any]
  shards: Sequence[Shard]
  counts: Sequence[int]
  report: IndexReport


def plain_rules(rules: SampleRules) -> dict[str, Any]:
  """Rules as JSON gives them back."""
  return json.loads(json.dumps(dataclasses.asdict(rules)))


def write_footer(file: BinaryIO, footer: Footer) -> None:
  """Ends a file that has all its records."""
  body = dataclasses.asdict(footer) | {"version": VERSION}
  data = json.dumps(body).encode()
  file.write(data)
  file.write(len(data).to_bytes(_LENGTH_BYTES, "little"))
  file.write(_MAGIC)


def read_index(
  path: pathlib.Path, shards: Sequence[Shard], rules: SampleRules
) -> TarIndex:
  """An index that fits the shards as they are now.

  Raises:
    ValueError: it is of other shards or rules, or damaged.
  """
  num_records, footer = _read_footer(path)
  if footer.rules != plain_rules(rules) or len(footer.shards) != len(shards):
    raise ValueError("it was built for other shards or filters")
  changed = [
    now.name
    for now, then in zip(shards, footer.shards, strict=True)
    if now != then
  ]
  if changed:
    raise ValueError(
      f"{len(changed)} of {len(shards)} shards have changed since, first "
      f"{changed[0]}"
    )
  counts = np.asarray(footer.counts)
  is_sound = counts.shape == (len(shards),) and counts.dtype == np.int64
  if not is_sound or counts.min() < 0 or counts.sum() != num_records:
    raise ValueError("its footer is damaged: counts do not add up")
  records = np.memmap(path, RECORD, mode="r", shape=(num_records,))
  return TarIndex(
    # A plain array over the same pages: rows of a memmap are slow to take.
    records=np.asarray(records),
    ends=np.cumsum(counts),
    report=footer.report,
  )


def _read_footer(path: pathlib.Path) -> tuple[int, Footer]:
  """(number of records before it, footer)."""
  status = path.stat()
  # Opening a pipe would wait for its writer.
  if not stat.S_ISREG(status.st_mode):
    raise ValueError("it is no regular file")
  size = status.st_size
  with open(path, "rb") as file:
    file.seek(max(0, size - _TAIL_BYTES))
    tail = file.read()
    length = int.from_bytes(tail[:_LENGTH_BYTES], "little")
    start = size - _TAIL_BYTES - length
    if tail[_LENGTH_BYTES:] != _MAGIC or start < 0:
      raise ValueError("it is no index of this version, or cut off")
    if length > _MAX_FOOTER_BYTES or start % RECORD.itemsize:
      raise ValueError("its footer is damaged")
    file.seek(start)
    data = file.read(length)
  try:
    body = json.loads(data)
    if body.pop("version") != VERSION:
      raise ValueError("another version")
    body["shards"] = [Shard(**shard) for shard in body["shards"]]
    body["report"] = IndexReport(**body["report"])
    return start // RECORD.itemsize, Footer(**body)
  except (AttributeError, KeyError, TypeError, RecursionError) as error:
    raise ValueError(f"its footer is damaged: {error}") from error


SUFFIX = ".tarindex"

# Starting worker processes takes about half a second each.
_SECONDS_ALONE = 2.0
_SECONDS_BETWEEN_NEWS = 30.0
_THREADS = 16

_log = logging.getLogger(__name__)


def look_at(folder: pathlib.Path, names: Sequence[str]) -> list[Shard]:
  """Sizes and times of shards; many at a time, for network folders.

  Raises:
    ValueError: one is missing or no file.
  """

  def look(name: str) -> Shard:
    path = folder / name
    try:
      status = path.stat()
    except OSError as error:
      raise ValueError(f"shard {path}: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode):
      raise ValueError(f"shard {path} is no file")
    return Shard(
      name=name, num_bytes=status.st_size, mtime_ns=status.st_mtime_ns
    )

  with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
    return list(pool.map(look, names))


def fingerprint(shards: Sequence[Shard], rules: SampleRules) -> str:
  """Hex digest of names, sizes, times and rules."""
  return _digest([dataclasses.astuple(shard) for shard in shards], rules)


def open_index(
  folder: pathlib.Path,
  shards: Sequence[Shard],
  rules: SampleRules,
  *,
  index_folder: pathlib.Path,
  workers: int,
) -> TarIndex:
  """Opens the index of these shards, after building it if it must be.

  Args:
    folder: that all shards share.
    shards: as `look_at` sees them now.
    rules: an index belongs to one set of rules.
    index_folder: where the index lies or will lie.
    workers: processes that build, at most.

  Raises:
    ValueError: a shard is compressed, or no sample can be used.
    OSError: a shard cannot be read or the index not be written.
  """
  names = [shard.name for shard in shards]
  if index_folder != folder:
    # Elsewhere, indexes of different folders lie side by side.
    names.insert(0, str(folder))
  path = index_folder / f"webdataset-{_digest(names, rules)[:16]}{SUFFIX}"
  if path.exists():
    try:
      return read_index(path, shards, rules)
    except ValueError as error:
      _log.warning("%s is built again: %s", path, error)
  _log.info("indexing %d shards of %s", len(shards), folder)
  with appearing_file(path) as file:
    _build(file, folder, shards, rules, workers)
  return read_index(path, shards, rules)


def _build(
  file: BinaryIO,
  folder: pathlib.Path,
  shards: Sequence[Shard],
  rules: SampleRules,
  workers: int,
) -> None:
  """Writes an index, one shard's records at a time."""
  start = time.monotonic()
  paths = [str(folder / shard.name) for shard in shards]
  counts, total = [], _Total()
  for shard, found in zip(
    shards, _all_samples(paths, rules, workers), strict=True
  ):
    file.write(found.records)
    counts.append(len(found.records) // RECORD.itemsize)
    total.add(shard.name, found)
    total.tell_now_and_then(len(counts), len(shards), sum(counts))
  report = total.report(time.monotonic() - start)
  _tell(report, folder, sum(counts))
  write_footer(
    file,
    Footer(
      rules=plain_rules(rules), shards=shards, counts=counts, report=report
    ),
  )


class _Total:
  """What was left out so far."""

  def __init__(self):
    self._removed: collections.Counter = collections.Counter()
    self._named: dict[str, list[str]] = {}
    self._damaged: dict[str, str] = {}
    self._num_other = 0
    self._last_news = time.monotonic()

  def add(self, name: str, found: ShardSamples) -> None:
    """Adds a shard's."""
    self._removed += found.removed
    self._num_other += found.num_other
    for reason, names in found.named.items():
      self._named[reason] = (self._named.get(reason, []) + names)[:_NAMED]
    if found.damage is not None:
      self._damaged[name] = found.damage

  def tell_now_and_then(
    self, num_done: int, num_shards: int, num_samples: int
  ) -> None:
    """Logs how far it is, twice a minute."""
    if time.monotonic() - self._last_news > _SECONDS_BETWEEN_NEWS:
      self._last_news = time.monotonic()
      _log.info(
        "indexed %d of %d shards, %d samples", num_done, num_shards, num_samples
      )

  def report(self, seconds: float) -> IndexReport:
    """The sums of all shards."""
    return IndexReport(
      removed=dict(sorted(self._removed.items())),
      named=self._named,
      damaged=self._damaged,
      num_other=self._num_other,
      seconds=round(seconds, 3),
    )


def _tell(report: IndexReport, folder: pathlib.Path, num_samples: int) -> None:
  """Logs what was left out.

  Raises:
    ValueError: nothing is left.
  """
  left_out = with_hint(report.removed)
  breaks = [f"{name}: {why}" for name, why in report.damaged.items()]
  if not num_samples:
    raise ValueError(
      f"no sample of {folder} can be used (left out: {left_out or 'none'}; "
      f"{report.num_other} members without extension"
      f"{'; ' + breaks[0] if breaks else ''}): samples need an image NAME.jpg, "
      ".jpeg, .png or .webp and a text NAME.txt or .json"
    )
  _log.info("indexed %d samples in %.1f s", num_samples, report.seconds)
  if left_out:
    _log.warning("left out of %s: %s; %s", folder, left_out, report.named)
  for line in breaks:
    _log.warning("a shard of %s breaks off: %s", folder, line)


def _all_samples(
  paths: Sequence[str], rules: SampleRules, workers: int
) -> Iterator[ShardSamples]:
  """The samples of each shard, in order.

  Small sets are done before worker processes would have started. Processes,
  for walking headers is Python that holds its global lock: two threads were
  not faster than one, two processes were.
  """
  start = time.monotonic()
  for done, path in enumerate(paths):
    is_long = time.monotonic() - start > _SECONDS_ALONE
    if is_long and min(workers, len(paths) - done) > 1:
      yield from _in_processes(paths[done:], rules, workers)
      return
    yield shard_samples(path, rules)


def _in_processes(
  paths: Sequence[str], rules: SampleRules, workers: int
) -> Iterator[ShardSamples]:
  """Few results wait at a time, so memory stays bounded."""
  # Forking would copy locks that other threads (JAX's) hold.
  context = multiprocessing.get_context("spawn")
  waiting = collections.deque()
  with concurrent.futures.ProcessPoolExecutor(
    min(workers, len(paths)), mp_context=context
  ) as pool:
    try:
      for path in paths:
        waiting.append(pool.submit(shard_samples, path, rules))
        if len(waiting) > 3 * workers:
          yield waiting.popleft().result()
      while waiting:
        yield waiting.popleft().result()
    except concurrent.futures.BrokenExecutor as error:
      raise ValueError(
        f"a process that indexes shards died ({error}): give this source "
        "workers=1, or start from a script with a __main__ guard"
      ) from error
    finally:
      pool.shutdown(wait=False, cancel_futures=True)


def _digest(names: list, rules: SampleRules) -> str:
  body = json.dumps([VERSION, names, plain_rules(rules)]).encode()
  return hashlib.blake2b(body, digest_size=16).hexdigest()


_CACHE = "tar_indexes"


class WebDatasetSource:
  """The samples of tar shards, one `os.pread` for each part of a sample.

  The index is memory-mapped: 32 bytes a sample on disk, and in memory only
  what the system caches of it.

  Attributes:
    name: as the config calls it.
    removed: reason to the number of samples the index left out.
    report: all that building the index saw.
  """

  name: str
  removed: Mapping[str, int]
  report: IndexReport

  def __init__(
    self,
    name: str,
    *,
    folder: pathlib.Path,
    shards: Sequence[Shard],
    rules: SampleRules,
    index: TarIndex,
  ):
    """Opens no shard yet.

    Args:
      name: as the config calls it.
      folder: that all shards share.
      shards: in the order of the index.
      rules: the index was built with.
      index: of these shards.
    """
    self.name, self.report = name, index.report
    self.removed = dict(index.report.removed)
    self._shards, self._rules, self._index = shards, rules, index
    self._files = OpenFiles(
      [folder / shard.name for shard in shards],
      [shard.num_bytes for shard in shards],
    )

  def __len__(self) -> int:
    return len(self._index.records)

  def __getitem__(self, index: int) -> Example:
    """One sample.

    Its record_id is "shard.tar:key"; keys of over 100 bytes are cut off there.
    The caption is NAME.txt, or without one the JSON's; rewritten captions are
    NAME.recap.txt and the JSON's. Without caption the rewritten ones count.

    Raises:
      BadRecord: missing_file, unreadable_file, corrupt_shard, bad_text
        or bad_json.
      IndexError: index outside 0..len-1.
    """
    if not 0 <= index < len(self):
      raise IndexError(f"{self.name} has {len(self)} records, not {index}")
    number = int(np.searchsorted(self._index.ends, index, side="right"))
    record = self._index.records[index].item()
    record_id = f"{self._shards[number].name}:{index}"
    try:
      file = self._files[number]
      header, image = _read_image(file, *record[:2])
      record_id = _record_id(self._shards[number], header)
      caption, metadata, rewritten = (
        _read_member(file, *record[at : at + 2]) for at in (2, 4, 6)
      )
      plain, rewritten = self._texts(caption, metadata, rewritten)
    except TextError as error:
      raise BadRecord(error.reason, str(error), record_id) from error
    except ChangedFile as error:
      raise BadRecord("corrupt_shard", str(error), record_id) from error
    except FileNotFoundError as error:
      raise BadRecord("missing_file", str(error), record_id) from error
    except OSError as error:
      raise BadRecord("unreadable_file", str(error), record_id) from error
    return Example(
      record_id=record_id,
      image=image,
      texts=annotations.captions(plain, rewritten) or ("",),
      rewritten=rewritten,
    )

  def fingerprint(self) -> str:
    """Digest of the shards' names, sizes and times, and of the rules."""
    return fingerprint(self._shards, self._rules)

  def _texts(
    self, caption: bytes, metadata: bytes, rewritten: bytes
  ) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(captions, rewritten captions), none of them blank."""
    fields = annotations.parse_object(metadata) if metadata else {}
    plain = annotations.text_of_bytes(caption)
    own = annotations.text_of_bytes(rewritten)
    return (
      (plain,)
      if plain
      else annotations.clean_texts(fields.get(self._rules.caption_key)),
      ((own,) if own else ())
      + annotations.clean_texts(fields.get(self._rules.rewritten_key)),
    )


def open_webdataset(
  name: str,
  *,
  path: PathSpec,
  filters: Mapping[str, Any] | Filters | None = None,
  caption_key: str = SampleRules.caption_key,
  rewritten_key: str = SampleRules.rewritten_key,
  index_folder: str | None = None,
  workers: int | None = None,
) -> WebDatasetSource:
  """Opens tar shards; the first time, builds their index.

  Args:
    name: as the config calls it.
    path: tar files, see `paths.list_files`.
    filters: see `Filters`.
    caption_key: of the caption in NAME.json.
    rewritten_key: of the rewritten caption in NAME.json.
    index_folder: for the index; by default the folder of the shards, or, where
      that cannot be written, ~/.cache/ddit_jax/tar_indexes.
    workers: processes that build the index; by default one for each core.

  Raises:
    ValueError: a shard is missing, compressed or unreadable; no sample is
      usable; a setting is wrong.
  """
  rules = SampleRules(
    filters=filters_from(filters),
    caption_key=caption_key,
    rewritten_key=rewritten_key,
  )
  if workers is None:
    workers = len(os.sched_getaffinity(0))
  if type(workers) is not int or workers < 1:
    raise ValueError(f"workers must be a positive number, not {workers!r}")
  files = paths.list_files(path, suffixes=(".tar",))
  folder = paths.shared_folder(files)
  shards = look_at(folder, [str(p.relative_to(folder)) for p in files])
  try:
    index = open_index(
      folder,
      shards,
      rules,
      index_folder=paths.index_folder(folder, index_folder, cache=_CACHE),
      workers=workers,
    )
  except OSError as error:
    raise ValueError(
      f"the index of {folder} could not be built or read: {error}"
    ) from error
  return WebDatasetSource(
    name, folder=folder, shards=shards, rules=rules, index=index
  )


def _read_member(file: OpenFile, block: int, count: int) -> bytes:
  """A member's data; block 0 means there is none."""
  return file.read(block * BLOCK, count) if block else b""


def _read_image(file: OpenFile, block: int, count: int) -> tuple[bytes, bytes]:
  """(header, data) of a member; the header shows that it still is one."""
  start = (block - 1) * BLOCK
  both = file.read(start, BLOCK + count)
  if not is_header(both[:BLOCK]):
    raise ChangedFile(f"no member begins at byte {start}")
  return both[:BLOCK], both[BLOCK:]


def _record_id(shard: Shard, header: bytes) -> str:
  key, _ = split_name(stored_name(header))
  shown = (key or b"?").decode("utf-8", errors="replace")
  return f"{shard.name}:{shown}"
