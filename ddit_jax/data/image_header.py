"""Sizes of encoded images from their headers, and filters on them.

An index of millions of images reads each header once. Pillow could do it, at
a price (in memory, one core): JPEG 71 us against 10 here, WebP 1.2 ms against
4 us, because it allocates the canvas, and PNG 11.5 ms against 5 us, because its
`getexif` decodes the pixels.
"""

import dataclasses
import math
import os
import re
import struct
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ddit_jax.errors import check_known

# Pillow's own limit against decompression bombs.
MAX_PIXELS = 89_478_485

# (offset, count) -> bytes there; fewer at the end of the file.
_ReadAt = Callable[[int, int], bytes]

# Real files have a few dozen; a malicious one may have millions.
_MAX_PARTS = 4096
_ORIENTATION_TAG = 0x0112
_EXIF_BYTES = 65_536
_SHORT, _SIDEWAYS = 3, (5, 6, 7, 8)
_START_OF_SCAN, _END_OF_IMAGE, _APP1 = 0xDA, 0xD9, 0xE1
# Frame headers are C0..CF without Huffman tables, JPG and arithmetic coding.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_WITHOUT_BODY = frozenset({0x01, *range(0xD0, 0xD9)})
# Fill bytes may precede a marker, and FF 00 is data.
_MARKER = re.compile(rb"\xff([^\x00\xff])")
_WINDOW, _MAX_BYTES_BETWEEN_PARTS = 65_536, 2**24
# What other files that people take for pictures begin with.
_OTHER_FORMATS = {
  b"GIF8": "GIF",
  b"BM": "BMP",
  b"II*\0": "TIFF",
  b"MM\0*": "TIFF",
  b"%!PS": "PostScript",
  b"%PDF": "PDF",
  b"8BPS": "Photoshop",
  b"<svg": "SVG",
  b"\0\0\1\0": "icon",
}


class ImageSize(NamedTuple):
  """Sides in pixels, as the image is shown (EXIF orientation applied)."""

  height: int
  width: int


class HeaderError(ValueError):
  """A header without a valid size.

  Attributes:
    reason: "not_an_image" or "truncated_image".
  """

  def __init__(self, reason: str, detail: str):
    super().__init__(detail)
    self.reason = reason


def image_size(read_at: _ReadAt) -> ImageSize:
  """Size of an image, reading only its header.

  A PNG's orientation is looked for before its pixels only.

  Raises:
    HeaderError: it has none of the three formats, damaged, or cut off.
  """
  start = read_at(0, 16)
  if start[:3] == b"\xff\xd8\xff":
    return _jpeg_size(read_at)
  if start[:8] == b"\x89PNG\r\n\x1a\n":
    return _png_size(read_at)
  if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
    return _webp_size(read_at)
  raise not_an_image(start)


def not_an_image(start: bytes) -> HeaderError:
  """The error of a file of another format, from its first 16 bytes."""
  # The brands of HEIF and AVIF lie behind the length of their box.
  found = start[8:12] if start[4:8] == b"ftyp" else start[:8] or "nothing"
  for signature, name in _OTHER_FORMATS.items():
    if start.startswith(signature):
      found = name
  return HeaderError("not_an_image", f"JPEG, PNG or WebP expected, not {found}")


def image_size_of_bytes(data: bytes) -> ImageSize:
  """`image_size` of an encoded image in memory."""
  return image_size(lambda offset, count: data[offset : offset + count])


def image_size_of_file(descriptor: int) -> ImageSize:
  """`image_size` of an open file; raises OSError too."""
  return image_size(lambda offset, count: os.pread(descriptor, count, offset))


def _unpack(layout: str, read_at: _ReadAt, offset: int) -> tuple:
  """Unpacks values at an offset.

  Raises:
    HeaderError: the file ends early.
  """
  count = struct.calcsize(layout)
  data = read_at(offset, count)
  if len(data) < count:
    raise HeaderError(
      "truncated_image", f"the file ends in its header, at byte {offset}"
    )
  return struct.unpack(layout, data)


def _checked(height: int, width: int, orientation: int = 1) -> ImageSize:
  if height < 1 or width < 1:
    raise HeaderError("not_an_image", f"its header says {width} x {height}")
  if orientation in _SIDEWAYS:
    return ImageSize(width, height)
  return ImageSize(height, width)


def _jpeg_size(read_at: _ReadAt) -> ImageSize:
  offset, sides, orientation = 2, None, 1
  for _ in range(_MAX_PARTS):
    marker, offset = _next_marker(read_at, offset)
    if marker in _WITHOUT_BODY:
      offset += 2
      continue
    if marker in (_START_OF_SCAN, _END_OF_IMAGE):
      break
    (length,) = _unpack(">H", read_at, offset + 2)
    if marker in _FRAMES and sides is None:
      sides = _unpack(">HH", read_at, offset + 5)
    elif marker == _APP1 and read_at(offset + 4, 6) == b"Exif\0\0":
      orientation = _orientation(read_at(offset + 10, max(length - 8, 0)))
    offset += 2 + length
  if sides is None:
    raise HeaderError("not_an_image", "a JPEG without a frame before its data")
  return _checked(*sides, orientation)


def _next_marker(read_at: _ReadAt, offset: int) -> tuple[int, int]:
  """(marker, where it is) from an offset on.

  Bytes between the parts of a JPEG are passed over, as decoders do.
  """
  start, count = offset, 2
  while offset - start <= _MAX_BYTES_BETWEEN_PARTS:
    window = read_at(offset, count)
    if found := _MARKER.search(window):
      return found[1][0], offset + found.start()
    if len(window) < count:
      break
    # Its last byte may be the first half of a marker.
    offset, count = offset + count - 1, _WINDOW
  raise HeaderError("truncated_image", f"no part of a JPEG follows {start}")


def _png_size(read_at: _ReadAt) -> ImageSize:
  _, kind, width, height = _unpack(">I4sII", read_at, 8)
  if kind != b"IHDR":
    raise HeaderError("not_an_image", f"a PNG that starts with {kind!r}")
  offset = 8
  for _ in range(_MAX_PARTS):
    length, kind = _unpack(">I4s", read_at, offset)
    if kind in (b"IDAT", b"IEND"):
      break
    if kind == b"eXIf":
      exif = read_at(offset + 8, min(length, _EXIF_BYTES))
      return _checked(height, width, _orientation(exif))
    offset += 12 + length
  return _checked(height, width)


def _webp_size(read_at: _ReadAt) -> ImageSize:
  (kind,) = _unpack("4s", read_at, 12)
  if kind == b"VP8 ":
    mark, width, height = _unpack("<3sHH", read_at, 23)
    if mark != b"\x9d\x01\x2a":
      raise HeaderError("not_an_image", "a WebP without key frame")
    # The upper two bits of each are a scale.
    return _checked(height & 0x3FFF, width & 0x3FFF)
  if kind == b"VP8L":
    mark, bits = _unpack("<BI", read_at, 20)
    if mark != 0x2F:
      raise HeaderError("not_an_image", "a WebP without its lossless mark")
    return _checked((bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1)
  if kind == b"VP8X":
    flags, low, high = _unpack("<B3xIH", read_at, 20)
    both = low | high << 32
    sides = (both >> 24) + 1, (both & 0xFFFFFF) + 1
    has_exif = bool(flags & 0x08)
    return _checked(*sides, _webp_orientation(read_at) if has_exif else 1)
  raise HeaderError("not_an_image", f"a WebP that starts with {kind!r}")


def _webp_orientation(read_at: _ReadAt) -> int:
  offset = 12
  for _ in range(_MAX_PARTS):
    header = read_at(offset, 8)
    if len(header) < 8:
      return 1
    kind, length = struct.unpack("<4sI", header)
    if kind == b"EXIF":
      exif = read_at(offset + 8, min(length, _EXIF_BYTES))
      return _orientation(exif.removeprefix(b"Exif\0\0"))
    offset += 8 + length + length % 2
  return 1


def _orientation(exif: bytes) -> int:
  """1..8 from a TIFF block; 1 (as stored) if it has none."""
  order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
  if order is None:
    return 1
  try:
    (start,) = struct.unpack_from(f"{order}I", exif, 4)
    (count,) = struct.unpack_from(f"{order}H", exif, start)
    for entry in range(start + 2, start + 2 + 12 * count, 12):
      tag, kind, _, value = struct.unpack_from(f"{order}HHIH", exif, entry)
      if tag == _ORIENTATION_TAG and kind == _SHORT:
        return value
  except struct.error:
    # Damaged EXIF does not make an image bad: decoders ignore it too.
    return 1
  return 1


def is_animation(data: bytes) -> bool:
  """Whether an encoded image claims to have several frames."""
  if data[:4] == b"RIFF":
    return data[12:16] == b"VP8X" and bool(data[20] & 0x02)
  is_png = data.startswith(b"\x89PNG")
  return is_png and b"acTL" in data[: data.find(b"IDAT")]


_PNG_START = 8
# Chunks that pixels depend on: besides the critical ones, whose names begin
# with a capital, transparency, orientation and frames.
_PNG_CHUNKS = frozenset({b"tRNS", b"eXIf", b"acTL", b"fcTL", b"fdAT"})


def without_metadata(png: bytes) -> bytes:
  """A PNG without its texts, colour profile, and other metadata."""
  kept, offset = [png[:_PNG_START]], _PNG_START
  while len(header := png[offset : offset + 8]) == 8:
    length, kind = struct.unpack(">I4s", header)
    end = offset + 12 + length
    if kind[:1].isupper() or kind in _PNG_CHUNKS:
      kept.append(png[offset:end])
    offset = end
  return b"".join(kept)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Filters:
  """Filters applied once, when an index is built; removals are counted.

  Attributes:
    max_ratio: longest to shortest side, at most; 0 or infinity keeps all, and
      configs take finite numbers only.
    min_short_side: of the image, in pixels; 0 keeps all.
    drop_empty_captions: True removes records whose texts are all blank.
  """

  max_ratio: float = 4.0
  min_short_side: int = 256
  drop_empty_captions: bool = True

  def __post_init__(self):
    if self.max_ratio != 0:
      _require_number("max_ratio", self.max_ratio, least=1.0)
    _require_number("min_short_side", self.min_short_side, least=0)
    if not isinstance(self.drop_empty_captions, bool):
      raise ValueError(
        "filters.drop_empty_captions is True or False, not "
        f"{self.drop_empty_captions!r}"
      )

  @property
  def needs_size(self) -> bool:
    """Whether any filter uses the ratio or the sides."""
    return 0 < self.max_ratio < math.inf or self.needs_sides

  @property
  def needs_sides(self) -> bool:
    """Whether any filter needs more than the ratio."""
    return self.min_short_side > 1

  def refused_size(self, size: ImageSize) -> str | None:
    """ "image_too_large", "short_side", "ratio" or None, which is kept."""
    short, long = min(size), max(size)
    if short * long > MAX_PIXELS:
      return "image_too_large"
    if short < self.min_short_side:
      return "short_side"
    return self.refused_ratio(long / short)

  def refused_ratio(self, ratio: float) -> str | None:
    """ "ratio" or None, for sides of which only the quotient is known."""
    is_long = max(ratio, 1 / ratio) > self.max_ratio
    return "ratio" if is_long and self.max_ratio != 0 else None


def with_hint(skipped: Mapping[str, int]) -> str:
  """Describes skipped records, and the filters to change to keep them."""
  counts = ", ".join(f"{n} {why}" for why, n in skipped.items())
  if not {"short_side", "ratio"} & skipped.keys():
    return counts
  values = f"{Filters.min_short_side} and {Filters.max_ratio}"
  return (
    f"{counts} (filters.min_short_side and filters.max_ratio of the source "
    f"decide, {values} unless set)"
  )


def filters_from(spec: Mapping[str, Any] | Filters | None) -> Filters:
  """Filters from a config's mapping; None gives the defaults.

  Raises:
    ValueError: an unknown key, with the nearest one, or a bad value.
  """
  if isinstance(spec, Filters):
    return spec
  try:
    values = dict(spec or {})
  except (TypeError, ValueError):
    raise ValueError(
      f"filters must be a mapping such as {{'max_ratio': 4.0}}, not {spec!r}"
    ) from None
  known = [field.name for field in dataclasses.fields(Filters)]
  check_known(values, known, what="filters has no key")
  return Filters(**values)


def _require_number(name: str, value: Any, *, least: float) -> None:
  is_number = isinstance(value, int | float) and not isinstance(value, bool)
  # Comparisons with NaN are False.
  if not is_number or not value >= least:
    raise ValueError(
      f"filters.{name} must be a number of at least {least}, not {value!r}"
    )
