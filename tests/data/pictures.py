"""Image files made on the fly: good ones, odd ones and hostile ones."""

import io
import struct
import zlib

import numpy as np
from PIL import Image


def pixels(width: int, height: int, seed: int = 0) -> np.ndarray:
  """A smooth coloured picture with some noise, uint8 [height, width, 3]."""
  rng = np.random.default_rng(seed)
  coarse = rng.integers(0, 256, (3, 4, 3), np.uint8)
  smooth = Image.fromarray(coarse).resize((width, height))
  noise = rng.integers(-9, 10, (height, width, 3))
  return np.clip(np.asarray(smooth) + noise, 0, 255).astype(np.uint8)


def encoded(image: Image.Image | np.ndarray, kind: str = "PNG", **options):
  """Bytes of an image file."""
  if isinstance(image, np.ndarray):
    image = Image.fromarray(image)
  file = io.BytesIO()
  image.save(file, kind, **options)
  return file.getvalue()


def jpeg(width: int = 40, height: int = 30, **options) -> bytes:
  return encoded(pixels(width, height), "JPEG", **options)


def chunk(kind: bytes, body: bytes) -> bytes:
  """One chunk of a PNG file."""
  check = zlib.crc32(kind + body)
  return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", check)


def png(
  width: int,
  height: int,
  rows: bytes,
  *,
  bits: int = 8,
  colour: int = 2,
  more: bytes = b"",
) -> bytes:
  """A PNG by hand; `rows` are filter byte and samples, row by row.

  colour: 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGB and alpha.
  """
  header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
  return (
    b"\x89PNG\r\n\x1a\n"
    + chunk(b"IHDR", header)
    + more
    + chunk(b"IDAT", zlib.compress(rows))
    + chunk(b"IEND", b"")
  )


def webp_of_header(kind: bytes, body: bytes) -> bytes:
  """A WebP file that ends after its first chunk."""
  data = b"WEBP" + kind + struct.pack("<I", len(body)) + body
  return b"RIFF" + struct.pack("<I", len(data)) + data


def _patched(data: bytes, start: int, new: bytes) -> bytes:
  return data[:start] + new + data[start + len(new) :]


def _sides_at(data: bytes) -> int:
  """Where a baseline JPEG's header holds its height and width."""
  return data.index(b"\xff\xc0") + 5


JPEG, PNG = jpeg(), encoded(pixels(40, 30))
WEBP = encoded(pixels(40, 30), "WEBP")
LOSSLESS_WEBP = encoded(pixels(40, 30), "WEBP", lossless=True)
_EXTENDED = bytes(4) + b"\xff\x3f\0" * 2  # 16384 x 16384

# Name to (file, reason it is refused for).
HOSTILE = {
  "nothing": (b"", "not_an_image"),
  "one byte": (b"\xff", "not_an_image"),
  "a web page": (b"<html><body>403 Forbidden</body></html>", "not_an_image"),
  "a pickle": (b"\x80\x04\x95\x0b\0\0\0\0\0\0\0.", "not_an_image"),
  "an archive": (b"PK\x03\x04" + bytes(60), "not_an_image"),
  "a drawing": (b"<svg width='9' height='9'/>", "not_an_image"),
  "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n", "not_an_image"),
  "GIF": (encoded(pixels(8, 8), "GIF"), "not_an_image"),
  "BMP": (encoded(pixels(8, 8), "BMP"), "not_an_image"),
  "TIFF": (encoded(pixels(8, 8), "TIFF"), "not_an_image"),
  "sound in RIFF": (b"RIFF\x24\0\0\0WAVEfmt " + bytes(40), "not_an_image"),
  "JPEG signature": (b"\xff\xd8\xff", "truncated_image"),
  "JPEG signature, noise": (
    b"\xff\xd8\xff\xe0" + np.random.default_rng(1).bytes(3000),
    "truncated_image",
  ),
  "JPEG cut in its header": (JPEG[:100], "truncated_image"),
  "JPEG cut at its pixels": (
    JPEG[: JPEG.index(b"\xff\xda") + 14],
    "truncated_image",
  ),
  "JPEG cut in half": (
    jpeg(200, 200)[: len(jpeg(200, 200)) // 2],
    "truncated_image",
  ),
  "JPEG without pixels in its header": (
    _patched(JPEG, _sides_at(JPEG), bytes(4)),
    "truncated_image",
  ),
  "JPEG bomb": (
    _patched(JPEG, _sides_at(JPEG), b"\xff\xdc\xff\xdc"),
    "image_too_large",
  ),
  "PNG signature": (PNG[:8], "truncated_image"),
  "PNG cut in its header": (PNG[:20], "truncated_image"),
  "PNG cut in half": (PNG[: len(PNG) // 2], "truncated_image"),
  "PNG with a wrong checksum": (
    _patched(PNG, 29, b"\0\0\0\0"),
    "truncated_image",
  ),
  "PNG whose data are no zlib": (
    PNG[:33] + chunk(b"IDAT", b"noise" * 9) + chunk(b"IEND", b""),
    "truncated_image",
  ),
  "PNG without pixels": (png(0, 9, b""), "truncated_image"),
  "PNG of unknown colours": (png(2, 2, bytes(20), colour=5), "truncated_image"),
  "PNG bomb": (png(60_000, 60_000, bytes(100)), "image_too_large"),
  "wide PNG bomb": (png(2**31 - 1, 1, bytes(100)), "image_too_large"),
  "WebP signature": (WEBP[:12], "truncated_image"),
  "WebP cut in half": (WEBP[: len(WEBP) // 2], "truncated_image"),
  "WebP cut at its end": (LOSSLESS_WEBP[:-40], "truncated_image"),
  "WebP bomb": (webp_of_header(b"VP8X", _EXTENDED), "image_too_large"),
  "lossless WebP bomb": (
    webp_of_header(b"VP8L", b"\x2f\xff\xff\xff\x0f" + bytes(20)),
    "image_too_large",
  ),
}
