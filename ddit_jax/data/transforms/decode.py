"""Encoded bytes to an upright RGB picture, from files that nobody vouches for.

Only JPEG, PNG and WebP are read, each by its own parser, and only after the
header's size has been checked.
"""

import contextlib
import io
from collections.abc import Iterator

import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from ddit_jax.data.examples import BadRecord
from ddit_jax.data.image_headers import (
  MAX_PIXELS,
  HeaderError,
  image_size_of_bytes,
)

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
