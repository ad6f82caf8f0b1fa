"""Sides from headers, compared with what Pillow shows."""

import io
import os
import struct

import pytest
from PIL import Image, ImageOps

from ddit_jax.data.image_header import (
  HeaderError,
  ImageSize,
  image_size,
  image_size_of_bytes,
  image_size_of_file,
)
from tests.source_files import encoded


def shown_size(data: bytes) -> ImageSize:
  """Pillow decodes the image and turns it upright."""
  upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
  return ImageSize(upright.height, upright.width)


def exif(orientation: int) -> bytes:
  found = Image.Exif()
  found[0x010F] = "a maker whose name lies behind the entries"
  found[0x0112] = orientation
  return found.tobytes()


OPTIONS = {
  "baseline": ("JPEG", {}),
  "progressive": ("JPEG", {"progressive": True}),
  "profile": ("JPEG", {"icc_profile": b"x" * 200_000}),
  "png": ("PNG", {}),
  "lossy": ("WEBP", {}),
  "lossless": ("WEBP", {"lossless": True}),
}


@pytest.mark.parametrize("sides", [(1, 1), (7, 300), (300, 7), (255, 256)])
@pytest.mark.parametrize("kind", OPTIONS)
def test_sides_are_those_that_pillow_decodes(kind, sides):
  name, options = OPTIONS[kind]
  data = encoded(*sides, name, **options)
  assert image_size_of_bytes(data) == sides == shown_size(data)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_orientation_swaps_sides_as_pillow_does(kind, orientation):
  data = encoded(20, 30, kind, exif=exif(orientation))
  assert image_size_of_bytes(data) == shown_size(data)
  assert image_size_of_bytes(data) == (
    (30, 20) if orientation > 4 else (20, 30)
  )


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "I;16"])
def test_png_modes_do_not_matter(mode):
  buffer = io.BytesIO()
  Image.new(mode, (31, 17)).save(buffer, "PNG")
  assert image_size_of_bytes(buffer.getvalue()) == (17, 31)


def test_transparent_and_animated_webp_are_read():
  buffer = io.BytesIO()
  frames = [Image.new("RGBA", (70, 50), (0, i, 0, i)) for i in (9, 99)]
  frames[0].save(buffer, "WEBP", save_all=True, append_images=frames[1:])
  assert image_size_of_bytes(buffer.getvalue()) == (50, 70)


def test_pixels_are_not_read():
  data = encoded(500, 400, "JPEG", quality=95, icc_profile=b"x" * 100_000)
  num_read = 0

  def read_at(offset, count):
    nonlocal num_read
    num_read += count
    return data[offset : offset + count]

  assert image_size(read_at) == (500, 400)
  assert num_read < 200


def test_open_files_are_read(tmp_path):
  (tmp_path / "a.png").write_bytes(encoded(3, 4, "PNG"))
  descriptor = os.open(tmp_path / "a.png", os.O_RDONLY)
  assert image_size_of_file(descriptor) == (3, 4)
  os.close(descriptor)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_every_cut_gives_the_size_or_a_header_error(kind):
  data = encoded(40, 50, kind, exif=exif(6))
  sizes = set()
  for stop in range(len(data)):
    try:
      sizes.add(image_size_of_bytes(data[:stop]))
    except HeaderError as error:
      assert error.reason in ("truncated_image", "not_an_image")
  # The sides come before the orientation in no format but JPEG.
  assert sizes <= {(50, 40), (40, 50)} and (50, 40) in sizes


NOT_IMAGES = {
  "nothing": b"",
  "text": b"<html>404 not found</html>",
  "gif": b"GIF89a" + bytes(50),
  "jpeg of zeros": b"\xff\xd8\xff" + bytes(100),
  "jpeg without frame": b"\xff\xd8\xff\xd9" + bytes(100),
  "jpeg of fill bytes": b"\xff\xd8" + b"\xff" * 100_000,
  "jpeg of empty parts": b"\xff\xd8" + b"\xff\xe2\0\2" * 100_000,
  "jpeg with a part of length 0": b"\xff\xd8" + b"\xff\xe2\0\0" * 9,
  "flat jpeg": b"\xff\xd8\xff\xc0\0\x0b\x08\0\0\0\x20\1\1\x11\0\xff\xda\0\2",
  "png without header": b"\x89PNG\r\n\x1a\n" + b"\0\0\0\x0dIDAT" + bytes(20),
  "flat png": b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR" + bytes(30),
  "unknown webp": b"RIFF\0\0\0\0WEBPXXXX" + bytes(50),
  "webp of zeros": b"RIFF\0\0\0\0WEBPVP8 " + bytes(50),
}


@pytest.mark.parametrize("data", NOT_IMAGES.values(), ids=NOT_IMAGES)
def test_what_has_no_size_is_refused(data):
  with pytest.raises(HeaderError):
    image_size_of_bytes(data)


@pytest.mark.parametrize(
  "block",
  [
    b"II*\0" + struct.pack("<I", 2**32 - 1),
    b"MM\0*" + struct.pack(">IH", 8, 65_535),
    b"II*\0" + struct.pack("<IHHHI", 8, 1, 0x0112, 3, 1),
    b"what is this",
  ],
)
def test_damaged_exif_is_ignored(block):
  body = b"Exif\0\0" + block
  part = b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body
  data = encoded(20, 30)
  assert image_size_of_bytes(data[:2] + part + data[2:]) == (20, 30)


def test_a_huge_claim_is_reported_not_decoded():
  data = bytearray(encoded(1, 1, "PNG"))
  data[16:24] = struct.pack(">II", 2**31 - 1, 2**31 - 1)
  assert image_size_of_bytes(bytes(data)) == (2**31 - 1, 2**31 - 1)
