"""Encoded bytes of untrusted files to upright RGB images.

Only JPEG, PNG and WebP are read, each by its own parser, and only after the
header's size has been checked.
"""

import contextlib
import dataclasses
import io
import math
from collections.abc import Iterator
from typing import Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from ddit_jax.data.example import BadRecord
from ddit_jax.data.image_header import (
  MAX_PIXELS,
  HeaderError,
  image_size_of_bytes,
  not_an_image,
  without_metadata,
)
from ddit_jax.errors import check_bounds, check_choices

# As Pillow names them.
FORMATS = ("JPEG", "PNG", "WEBP")
_EXIF_ORIENTATION = 0x0112
# EXIF 2.32, table 6: rotations of the stored image to upright.
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
# Place of the bits of a sample in a PNG.
_PNG_BIT_DEPTH = 24


def decode_image(
  data: bytes,
  record_id: str,
  *,
  max_pixels: int = MAX_PIXELS,
  draft_side: int | None = None,
) -> Image.Image:
  """An image in mode RGB, rotated upright.

  Transparent pixels are blended onto white, as in a browser.
  (`convert("RGB")` alone would show the colour stored there, mostly black.)
  16-bit greys keep their upper eight bits, as Pillow does with 16-bit colours.
  Colour profiles are not applied, and neither they nor texts can make an image
  bad, however large or damaged. The first frame of an animation is used, and
  the first picture of a JPEG that holds several (phones' MPO files). A file
  that was written with too few pixels but ends correctly is not detected:
  libjpeg and Pillow fill the rest with grey or black.

  Args:
    data: a JPEG, PNG or WebP file.
    record_id: for the error.
    max_pixels: larger images are rejected from their header.
    draft_side: if set, a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size
      while its short side keeps at least this many pixels. Faster, but the
      pixels differ from a full decode.

  Raises:
    BadRecord: not_an_image (no such file's signature), image_too_large, or
      truncated_image (cut off or damaged: it does not decode to its end).
  """
  parser = _parser(data)
  if parser is None:
    error = not_an_image(data[:16])
    raise BadRecord(error.reason, str(error), record_id)
  if parser is WebPImageFile:
    _check_webp_header(data, max_pixels, record_id)

  def decoded(data: bytes) -> Image.Image:
    image = parser(io.BytesIO(data))
    _check_size(image.size, max_pixels, record_id)
    if draft_side is not None:
      image.draft(None, (draft_side, draft_side))
    if parser is PngImageFile:
      _set_transparent_colour(image, data)
    image.load()
    return upright_rgb(image)

  with _pillows_errors(record_id):
    try:
      return decoded(data)
    except Exception as error:
      if parser is not PngImageFile or isinstance(error, BadRecord):
        raise
    # Pillow refuses long and damaged metadata, which viewers pass over.
    return decoded(without_metadata(data))


def upright_rgb(image: Image.Image) -> Image.Image:
  """Any image of the three formats in RGB, turned as its EXIF data says."""
  return _upright(_to_rgb(image), image)


def _set_transparent_colour(image: Image.Image, data: bytes) -> None:
  """Keeps the upper eight bits of it where Pillow keeps those of colours."""
  colour = image.info.get("transparency")
  if image.mode == "RGB" and isinstance(colour, tuple):
    if data[_PNG_BIT_DEPTH] == 16:
      image.info["transparency"] = tuple(value >> 8 for value in colour)


@contextlib.contextmanager
def _pillows_errors(record_id: str) -> Iterator[None]:
  """Converts all errors into bad records.

  On malformed bytes Pillow's parsers may raise any exception.
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
  """The Pillow class for a file's first bytes, or None.

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
  """Checks the size before Pillow, which allocates the canvas at once."""
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
  """Applies the orientation in the file's EXIF data, if any."""
  if "exif" not in image.info:
    return pixels
  try:
    orientation = image.getexif().get(_EXIF_ORIENTATION)
  # An image with broken EXIF data keeps its stored orientation, as in viewers.
  except Exception:
    return pixels
  turn = _UPRIGHT.get(orientation)
  return pixels if turn is None else pixels.transpose(turn)


_BICUBIC = Image.Resampling.BICUBIC


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageConfig:
  """How images of one shape are made of any images.

  Attributes:
    image_size: side of the square images of `data.sources`, in pixels; the
      digit world has its own.
    crop: "centre" or "random" (sampled at each visit) square of an image; "pad"
      keeps all of it, with black beside or above and below. "bucket" gives each
      batch one of several shapes of about image_size^2 pixels, and each image
      the shape that cuts least of it; validation reads centre squares.
    bucket_step: divides the sides of the shapes of "bucket", in pixels.
    max_aspect_ratio: longer by shorter side of these shapes, at most.
    flip_probability: of mirroring an image whose text names no side. Mirroring
      also mirrors writing: use 0 for images of text.
  """

  image_size: int = 256
  crop: Literal["centre", "random", "pad", "bucket"] = "centre"
  bucket_step: int = 64
  max_aspect_ratio: float = 2.0
  flip_probability: float = 0.0

  def __post_init__(self):
    check_choices(self)
    check_bounds(self, image_size=2**14, bucket_step=2**14)
    if not 1 <= self.max_aspect_ratio <= 100:
      raise ValueError(
        f"max_aspect_ratio must be in [1, 100], got {self.max_aspect_ratio}"
      )
    if self.crop == "bucket" and self.image_size % self.bucket_step:
      raise ValueError(
        f"bucket_step = {self.bucket_step} does not divide image_size = "
        f"{self.image_size}: choose a divisor"
      )
    if not 0 <= self.flip_probability <= 1:
      raise ValueError(
        f"flip_probability must be in [0, 1], got {self.flip_probability}"
      )

  @property
  def square_crop(self) -> str:
    """How a square is made of one image: "centre" or "pad"."""
    return self.crop if self.crop == "pad" else "centre"

  @property
  def shapes(self) -> tuple[tuple[int, int], ...]:
    """The (height, width) that batches may have, in pixels."""
    side, step = self.image_size, self.bucket_step
    if self.crop != "bucket":
      return ((side, side),)
    wide = [
      (height, side**2 // height // step * step)
      for height in range(step, side + 1, step)
    ]
    wide = [x for x in wide if x[1] <= self.max_aspect_ratio * x[0]]
    return tuple(sorted({*wide, *((width, height) for height, width in wide)}))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageTransform:
  """Encoded bytes to uint8 pixels [height, width, 3].

  The image is resized (Pillow's antialiased bicubic) until it covers the shape,
  one side exactly and the other rounded down as by torchvision's `Resize`; then
  the shape is cropped. With `crop` "pad" the long side becomes the square's.

  Attributes:
    config: of the shape.
    bucket: (height, width) of `config.shapes`; None is the square.
    jpeg_decoding: "exact", or "draft": JPEGs are decoded at a half, quarter
      or eighth where that is still enough; faster, other pixels.
    max_pixels: of the decoded and of the resized image.
  """

  config: ImageConfig = ImageConfig()
  jpeg_decoding: Literal["exact", "draft"] = "exact"
  max_pixels: int = MAX_PIXELS
  bucket: tuple[int, int] | None = None

  def __post_init__(self):
    check_choices(self)
    if not self.num_pixels <= self.max_pixels <= MAX_PIXELS:
      raise ValueError(
        f"max_pixels must be in {self.num_pixels} to {MAX_PIXELS} (Pillow's "
        f"limit against decompression bombs), got {self.max_pixels}"
      )

  @property
  def shape(self) -> tuple[int, int]:
    """(height, width) of the images."""
    return self.bucket or (self.config.image_size,) * 2

  @property
  def num_pixels(self) -> int:
    """Pixels of an image."""
    return math.prod(self.shape)

  @property
  def flips(self) -> bool:
    """True if images may be mirrored."""
    return self.config.flip_probability > 0

  @property
  def _draft_side(self) -> int | None:
    # A padded image has a shorter side, so a draft could be too small.
    if self.jpeg_decoding == "exact" or self.config.crop == "pad":
      return None
    return max(self.shape)

  def __call__(
    self,
    data: bytes,
    rng: np.random.Generator,
    *,
    record_id: str,
    may_flip: bool,
  ) -> UInt8[np.ndarray, "height width 3"]:
    """The pixels of one visit; always draws three times from `rng`.

    Raises:
      BadRecord: the bytes are not a complete image of an allowed size.
    """
    image = decode_image(
      data,
      record_id,
      max_pixels=self.max_pixels,
      draft_side=self._draft_side,
    )
    width, height = covering_size(image.size, self.shape)
    is_padded = self.config.crop == "pad"
    if width * height > self.max_pixels and not is_padded:
      raise BadRecord(
        "image_too_large",
        f"{image.width} x {image.height} becomes {width} x {height} "
        f"pixels, at most {self.max_pixels} are allowed",
        record_id,
      )
    left, top = width - self.shape[1], height - self.shape[0]
    corner = int(rng.integers(left + 1)), int(rng.integers(top + 1))
    if self.config.crop != "random":
      corner = left // 2, top // 2
    if is_padded:
      pixels = padded_square(image, self.config.image_size)
    else:
      pixels = resized_crop(image, self.shape, corner)
    if rng.random() < self.config.flip_probability and may_flip:
      pixels = pixels.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(pixels)


def covering_size(
  size: tuple[int, int], shape: tuple[int, int]
) -> tuple[int, int]:
  """(width, height) of an image resized to just cover a (height, width).

  Args:
    size: (width, height) of the image.
    shape: that is covered.
  """
  width, height = size
  if width * shape[0] <= height * shape[1]:
    return shape[1], shape[1] * height // width
  return shape[0] * width // height, shape[0]


def resized_crop(
  image: Image.Image, shape: tuple[int, int], corner: tuple[int, int]
) -> Image.Image:
  """The (height, width) at `corner` = (left, top) of the resized image.

  Resizing only the crop, by Pillow's `box`, would be faster but give other
  pixels: which axis Pillow resizes first depends on the sizes.
  """
  (height, width), (left, top) = shape, corner
  resized = image.resize(covering_size(image.size, shape), _BICUBIC)
  if resized.size == (width, height):
    return resized
  return resized.crop((left, top, left + width, top + height))


def padded_square(image: Image.Image, size: int) -> Image.Image:
  """The whole image, resized to fit the square, in its middle on black."""
  longest = max(image.size)
  width, height = (max(1, size * side // longest) for side in image.size)
  resized = image.resize((width, height), _BICUBIC)
  square = Image.new("RGB", (size, size))
  square.paste(resized, ((size - width) // 2, (size - height) // 2))
  return square


def reencoded(
  data: bytes, record_id: str, *, short_side: int, jpeg_quality: int
) -> bytes:
  """An image file whose short side is at most `short_side` pixels.

  A larger image is decoded, rotated upright, resized (Pillow's antialiased
  bicubic) and written as a JPEG without chroma subsampling or metadata. A small
  enough image keeps its bytes: nothing is enlarged, and no JPEG is recompressed
  needlessly. Either way the whole image was decoded.

  Args:
    data: a JPEG, PNG or WebP file.
    record_id: named in errors.
    short_side: in pixels, at least 1.
    jpeg_quality: 1..100, as in Pillow.

  Raises:
    BadRecord: not_an_image, truncated_image or image_too_large.
  """
  image = decode_image(data, record_id)
  if min(image.size) <= short_side:
    return data
  small = image.resize(
    covering_size(image.size, (short_side,) * 2), Image.Resampling.BICUBIC
  )
  file = io.BytesIO()
  # Chroma subsampling would blur small writing and thin outlines.
  small.save(file, "JPEG", quality=jpeg_quality, subsampling="4:4:4")
  return file.getvalue()
