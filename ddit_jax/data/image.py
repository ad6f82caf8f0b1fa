"""Encoded bytes to an upright RGB picture, from files that nobody vouches for.

Only JPEG, PNG and WebP are read, each by its own parser, and only after the
header's size has been checked.
"""

import contextlib
import dataclasses
import io
import math
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from ddit_jax.data.example import BadRecord
from ddit_jax.errors import check_known

# Pillow's own limit against decompression bombs.
MAX_PIXELS = 89_478_485

# (offset, count) -> bytes there; fewer at the end of the file.
ReadAt = Callable[[int, int], bytes]

# Real files have a few dozen; a hostile one may have millions.
_MAX_PARTS = 4096
_ORIENTATION_TAG = 0x0112
_EXIF_BYTES = 65_536
_SHORT, _SIDEWAYS = 3, (5, 6, 7, 8)
_START_OF_SCAN, _END_OF_IMAGE, _APP1 = 0xDA, 0xD9, 0xE1
# Frame headers are C0..CF without Huffman tables, JPG and arithmetic coding.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_WITHOUT_BODY = frozenset({0x01, *range(0xD0, 0xD8)})


class ImageSize(NamedTuple):
  """Sides in pixels, as the image is shown (EXIF orientation applied)."""

  height: int
  width: int


class HeaderError(ValueError):
  """A header that gives no size.

  Attributes:
    reason: "not_an_image" or "truncated_image".
  """

  def __init__(self, reason: str, detail: str):
    super().__init__(detail)
    self.reason = reason


def image_size(read_at: ReadAt) -> ImageSize:
  """Size of an image, reading no more of it than the header.

  A PNG's orientation is looked for before its pixels only.

  Raises:
    HeaderError: it is none of the three formats, damaged, or cut off.
  """
  start = read_at(0, 16)
  if start[:3] == b"\xff\xd8\xff":
    return _jpeg_size(read_at)
  if start[:8] == b"\x89PNG\r\n\x1a\n":
    return _png_size(read_at)
  if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
    return _webp_size(read_at)
  raise HeaderError(
    "not_an_image", f"neither JPEG, PNG nor WebP: it starts with {start!r}"
  )


def image_size_of_bytes(data: bytes) -> ImageSize:
  """`image_size` of an encoded image in memory."""
  return image_size(lambda offset, count: data[offset : offset + count])


def image_size_of_file(descriptor: int) -> ImageSize:
  """`image_size` of an open file; raises OSError too."""
  return image_size(lambda offset, count: os.pread(descriptor, count, offset))


def _unpack(layout: str, read_at: ReadAt, offset: int) -> tuple:
  """Numbers at an offset.

  Raises:
    HeaderError: the file ends before.
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


def _jpeg_size(read_at: ReadAt) -> ImageSize:
  offset, sides, orientation = 2, None, 1
  for _ in range(_MAX_PARTS):
    prefix, marker = _unpack(">BB", read_at, offset)
    if prefix != 0xFF:
      raise HeaderError("not_an_image", f"a JPEG without marker at {offset}")
    if marker == 0xFF or marker in _WITHOUT_BODY:
      offset += 1 if marker == 0xFF else 2
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


def _png_size(read_at: ReadAt) -> ImageSize:
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


def _webp_size(read_at: ReadAt) -> ImageSize:
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


def _webp_orientation(read_at: ReadAt) -> int:
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
  """1..8 from a TIFF block; 1, as it is stored, where it says nothing."""
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
    # Damaged EXIF is no reason to lose an image: decoders ignore it too.
    return 1
  return 1


_EXIF_ORIENTATION = 0x0112
# EXIF 2.32, table 6: what turns the stored picture upright.
_UPRIGHT = {
  2: Image.Transpose.FLIP_LEFT_RIGHT,
  3: Image.Transpose.ROTATE_180,
  4: Image.Transpose.FLIP_TOP_BOTTOM,
  5: Image.Transpose.TRANSPOSE,
  6: Image.Transpose.ROTATE_270,
  7: Image.Transpose.TRANSVERSE,
  8: Image.Transpose.ROTATE_90,
}
_DETAIL_LENGTH = 200


def decode(
  data: bytes,
  record_id: str,
  *,
  max_pixels: int = MAX_PIXELS,
  draft_side: int | None = None,
) -> Image.Image:
  """A picture in mode RGB, turned upright.

  Transparent pixels lie on white, as in a browser. (`convert("RGB")` alone
  would show the colour that a file happens to hold under them, mostly black.)
  16-bit greys keep their upper eight bits, as Pillow does with 16-bit colours.
  Colour profiles are not applied; of an animation the first frame is taken.
  A file that was made with too few pixels, but ends in order, is not noticed:
  libjpeg and Pillow fill the rest with grey or black.

  Args:
    data: a JPEG, PNG or WebP file.
    record_id: for the error.
    max_pixels: larger pictures are refused from their header.
    draft_side: None, or: let a JPEG be decoded at 1/2, 1/4 or 1/8 of its size
      while its short side keeps at least this many pixels. Faster, and other
      pixels than decoding all.

  Raises:
    BadRecord: not_an_image (no such file's signature), image_too_large, or
      truncated_image (cut off or damaged: it does not decode to its end).
  """
  parser = _parser(data)
  if parser is None:
    start = data[:8].hex(" ") or "nothing"
    raise BadRecord(
      "not_an_image", f"JPEG, PNG or WebP expected, found {start}", record_id
    )
  if parser is WebPImageFile:
    _check_webp_header(data, max_pixels, record_id)
  with _pillows_errors(record_id):
    image = parser(io.BytesIO(data))
    _check_size(image.size, max_pixels, record_id)
    if draft_side is not None:
      image.draft(None, (draft_side, draft_side))
    image.load()
    return _upright(_to_rgb(image), image)


@contextlib.contextmanager
def _pillows_errors(record_id: str) -> Iterator[None]:
  """Turns all errors into bad records.

  On hostile bytes Pillow's parsers raise errors of any kind.
  """
  try:
    yield
  except BadRecord:
    raise
  except MemoryError as error:
    raise BadRecord("image_too_large", "out of memory", record_id) from error
  except Exception as error:
    detail = " ".join(f"{type(error).__name__}: {error}".split())
    raise BadRecord(
      "truncated_image", detail[:_DETAIL_LENGTH], record_id
    ) from error


def _parser(data: bytes):
  """The Pillow class of a file's first bytes, or None.

  Used in place of `Image.open`, whose own size check writes warnings.
  """
  if data.startswith(b"\xff\xd8\xff"):
    return JpegImageFile
  if data.startswith(b"\x89PNG\r\n\x1a\n"):
    return PngImageFile
  if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
    return WebPImageFile
  return None


def _check_webp_header(data: bytes, max_pixels: int, record_id: str) -> None:
  """Looks before Pillow does, which allocates the canvas at once."""
  try:
    size = image_size_of_bytes(data)
  except HeaderError as error:
    raise BadRecord(error.reason, str(error), record_id) from error
  _check_size((size.width, size.height), max_pixels, record_id)


def _check_size(size: tuple[int, int], max_pixels: int, record_id: str):
  width, height = size
  if width * height > max_pixels:
    raise BadRecord(
      "image_too_large",
      f"{width} x {height} pixels, at most {max_pixels} are allowed",
      record_id,
    )


def _to_rgb(image: Image.Image) -> Image.Image:
  """Any mode of the three formats to RGB, transparency on white."""
  is_keyed = "transparency" in image.info
  if image.mode == "RGB" and not is_keyed:
    return image
  if image.mode.startswith("I"):
    return _from_16_bits(image)
  if not is_keyed and "A" not in image.getbands():
    return image.convert("RGB")
  image = image.convert("RGBA")
  page = Image.new("RGB", image.size, "white")
  page.paste(image, mask=image.getchannel("A"))
  return page


def _from_16_bits(image: Image.Image) -> Image.Image:
  """Sixteen-bit grey to RGB; `convert` would clip at 255."""
  values = np.asarray(image)
  grey = (values >> 8).astype(np.uint8)
  if "transparency" in image.info:
    grey[values == image.info["transparency"]] = 255
  return Image.fromarray(grey).convert("RGB")


def _upright(pixels: Image.Image, image: Image.Image) -> Image.Image:
  """Applies the orientation that the file's EXIF data names, if any."""
  if "exif" not in image.info:
    return pixels
  try:
    orientation = image.getexif().get(_EXIF_ORIENTATION)
  # A picture with broken EXIF data is shown as it is stored, as viewers do.
  except Exception:
    return pixels
  turn = _UPRIGHT.get(orientation)
  return pixels if turn is None else pixels.transpose(turn)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Filters:
  """Applied once, when an index is built; what goes is counted by name.

  Attributes:
    max_ratio: longest to shortest side, at most; infinity keeps all.
    min_short_side: of the image, in pixels; 0 keeps all.
    drop_empty_captions: True leaves out records whose texts are all blank.
  """

  max_ratio: float = 4.0
  min_short_side: int = 256
  drop_empty_captions: bool = True

  def __post_init__(self):
    _require_number("max_ratio", self.max_ratio, least=1.0)
    _require_number("min_short_side", self.min_short_side, least=0)
    if not isinstance(self.drop_empty_captions, bool):
      raise ValueError(
        "filters.drop_empty_captions is True or False, not "
        f"{self.drop_empty_captions!r}"
      )

  @property
  def needs_size(self) -> bool:
    """Whether the ratio or the sides matter."""
    return math.isfinite(self.max_ratio) or self.needs_sides

  @property
  def needs_sides(self) -> bool:
    """Whether a ratio alone does not suffice."""
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
    return "ratio" if max(ratio, 1 / ratio) > self.max_ratio else None


def with_hint(left_out: Mapping[str, int]) -> str:
  """What an index left out, and how to keep it if filters are the cause."""
  counts = ", ".join(f"{n} {why}" for why, n in left_out.items())
  if not {"short_side", "ratio"} & left_out.keys():
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
  # A comparison with NaN is False.
  if not is_number or not value >= least:
    raise ValueError(
      f"filters.{name} must be a number of at least {least}, not {value!r}"
    )


CROPS = ("centre", "random")
JPEG_DECODINGS = ("exact", "draft")

_BICUBIC = Image.Resampling.BICUBIC


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageTransform:
  """Encoded bytes to uint8 pixels [size, size, 3].

  The short side is resized to `size` (Pillow's antialiased bicubic), the long
  side to `size * long // short` as torchvision's `Resize` does; then a square
  is cut out.

  Attributes:
    size: pixels of the square's side.
    crop: "centre", or "random" (drawn anew at each visit).
    flip_probability: of mirroring, where the text allows it. Mirroring also
      mirrors writing: leave it 0 for pictures of text.
    jpeg_decoding: "exact", or "draft": JPEGs are decoded at a half, quarter
      or eighth where that is still enough; faster, other pixels.
    max_pixels: of the decoded and of the resized picture.
  """

  size: int
  crop: str = "centre"
  flip_probability: float = 0.0
  jpeg_decoding: str = "exact"
  max_pixels: int = MAX_PIXELS

  def __post_init__(self):
    _check_choice("crop", self.crop, CROPS)
    _check_choice("jpeg_decoding", self.jpeg_decoding, JPEG_DECODINGS)
    if self.size < 1:
      raise ValueError(f"image_size must be positive, got {self.size}")
    if not 0 <= self.flip_probability <= 1:
      raise ValueError(
        f"flip_probability must lie in [0, 1], got {self.flip_probability}"
      )
    if not self.size**2 <= self.max_pixels <= MAX_PIXELS:
      raise ValueError(
        f"max_pixels must lie in {self.size**2} to {MAX_PIXELS} (Pillow's "
        f"limit against decompression bombs), got {self.max_pixels}"
      )

  def __call__(
    self,
    data: bytes,
    rng: np.random.Generator,
    *,
    record_id: str,
    may_flip: bool,
  ) -> np.ndarray:
    """uint8 [size, size, 3] of one visit; always draws three times from `rng`.

    Raises:
      BadRecord: the bytes are no whole image of an allowed size.
    """
    picture = decode(
      data,
      record_id,
      max_pixels=self.max_pixels,
      draft_side=self.size if self.jpeg_decoding == "draft" else None,
    )
    width, height = resized_size(picture.size, self.size)
    if width * height > self.max_pixels:
      raise BadRecord(
        "image_too_large",
        f"{picture.width} x {picture.height} becomes {width} x {height} "
        f"pixels, at most {self.max_pixels} are allowed",
        record_id,
      )
    left, top = width - self.size, height - self.size
    drawn = int(rng.integers(left + 1)), int(rng.integers(top + 1))
    corner = drawn if self.crop == "random" else (left // 2, top // 2)
    square = resized_square(picture, self.size, corner)
    if rng.random() < self.flip_probability and may_flip:
      square = square.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(square)


def resized_size(size: tuple[int, int], short_side: int) -> tuple[int, int]:
  """(width, height) after the short side became `short_side`."""
  shortest = min(size)
  width, height = (short_side * side // shortest for side in size)
  return width, height


def resized_square(
  picture: Image.Image, size: int, corner: tuple[int, int]
) -> Image.Image:
  """The square at `corner` = (left, top) of the resized picture.

  Resizing only what is kept, by Pillow's `box`, would be faster and give other
  pixels: where Pillow resizes along which axis first depends on the sizes.
  """
  resized = picture.resize(resized_size(picture.size, size), _BICUBIC)
  if resized.size == (size, size):
    return resized
  left, top = corner
  return resized.crop((left, top, left + size, top + size))


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
  if value not in choices:
    raise ValueError(f"{name} must be one of {choices}, got {value!r}")


def reencoded(
  data: bytes, record_id: str, *, short_side: int, jpeg_quality: int
) -> bytes:
  """An image file whose short side is at most `short_side` pixels.

  A larger image is decoded, turned upright, resized (Pillow's antialiased
  bicubic) and written as a JPEG without chroma subsampling; its metadata goes.
  An image that is small enough keeps its bytes: nothing is enlarged, and no
  JPEG is compressed twice for nothing. Either way the whole image was decoded.

  Args:
    data: a JPEG, PNG or WebP file.
    record_id: named in errors.
    short_side: in pixels, at least 1.
    jpeg_quality: 1..100, as Pillow means it.

  Raises:
    BadRecord: not_an_image, truncated_image or image_too_large.
  """
  picture = decode(data, record_id)
  if min(picture.size) <= short_side:
    return data
  small = picture.resize(
    resized_size(picture.size, short_side), Image.Resampling.BICUBIC
  )
  file = io.BytesIO()
  # Half as many colour pixels would blur small writing and thin outlines.
  small.save(file, "JPEG", quality=jpeg_quality, subsampling="4:4:4")
  return file.getvalue()
