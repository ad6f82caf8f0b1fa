"""Smaller files: size, pixels, orientation, and what stays untouched."""

import io

import numpy as np
import pytest
from PIL import Image

from ddit_jax.data.example import BadRecord
from ddit_jax.data.image import reencoded


def encoded(pixels, kind="PNG", **options) -> bytes:
  file = io.BytesIO()
  Image.fromarray(pixels).save(file, kind, **options)
  return file.getvalue()


def opened(data) -> Image.Image:
  return Image.open(io.BytesIO(data))


def smooth(height, width):
  """A picture that JPEG stores well, different at every corner."""
  down, across = np.mgrid[0:height, 0:width]
  channels = [255 * down / height, 255 * across / width, 80 + 0 * down]
  return np.stack(channels, axis=-1).astype(np.uint8)


@pytest.mark.parametrize(
  ("height", "width", "expected"),
  [(120, 80, (48, 32)), (80, 120, (32, 48)), (100, 33, (96, 32))],
)
def test_the_short_side_is_as_asked(height, width, expected):
  data = reencoded(
    encoded(smooth(height, width)), "r", short_side=32, jpeg_quality=95
  )
  image = opened(data)
  assert (image.format, image.mode) == ("JPEG", "RGB")
  assert (image.height, image.width) == expected
  # All channels at full resolution.
  assert {(h, v) for _, h, v, _ in image.layer} == {(1, 1)}
  # The picture is linear, so the small one is known; the worst pixel of JPEG
  # at quality 95 was off by 5.
  error = np.abs(np.asarray(image).astype(int) - smooth(*expected))
  assert error.max() <= 6


def test_quality_changes_the_size():
  noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
  sizes = [
    len(reencoded(encoded(noise), "r", short_side=32, jpeg_quality=quality))
    for quality in (50, 80, 95)
  ]
  assert sizes == sorted(sizes) and sizes[0] < 0.6 * sizes[2]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("side", [31, 32])
def test_small_images_keep_their_bytes(kind, side):
  data = encoded(smooth(side, 60), kind)
  assert reencoded(data, "r", short_side=32, jpeg_quality=95) is data


def test_the_picture_is_stored_upright():
  exif = Image.Exif()
  exif[0x0112] = 6  # the viewer turns it by 90 degrees
  data = encoded(smooth(120, 80), "JPEG", quality=95, exif=exif)
  image = opened(reencoded(data, "r", short_side=32, jpeg_quality=95))
  assert (image.height, image.width) == (32, 48)
  assert not image.getexif()
  red = np.asarray(image)[..., 0].astype(int)
  assert red[:, 0].mean() > 240 and red[:, -1].mean() < 15


@pytest.mark.parametrize(
  ("change", "reason"),
  [
    (lambda data: data[:-20], "truncated_image"),
    (lambda data: b"GIF89a" + data, "not_an_image"),
  ],
)
@pytest.mark.parametrize("side", [16, 64])
def test_bad_images_are_noticed_large_and_small(change, reason, side):
  data = change(encoded(smooth(side, side), "JPEG"))
  with pytest.raises(BadRecord, match=f"r: {reason}"):
    reencoded(data, "r", short_side=32, jpeg_quality=95)
