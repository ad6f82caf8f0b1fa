"""Pixels equal Pillow's own resize and crop; draws belong to the visit."""

import io

import numpy as np
import pytest
from hypothesis import example as also
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ddit_jax.data.example import BadRecord
from ddit_jax.data.image import (
  ImageConfig,
  ImageTransform,
  covering_size,
  resized_crop,
)
from tests.data import pictures
from tests.data.pictures import encoded, jpeg, pixels

BICUBIC = Image.Resampling.BICUBIC


def visit(transform, data, seed=0, may_flip=True):
  rng = np.random.default_rng(seed)
  return transform(data, rng, record_id="x", may_flip=may_flip)


def by_pillow(image, size, corner=None):
  """Resize all of it, then crop: the definition."""
  width, height = image.size
  if width < height:
    resized = image.resize((size, size * height // width), BICUBIC)
  else:
    resized = image.resize((size * width // height, size), BICUBIC)
  left, top = corner or (
    (resized.width - size) // 2,
    (resized.height - size) // 2,
  )
  return np.asarray(resized.crop((left, top, left + size, top + size)))


@settings(deadline=None, max_examples=300)
@given(
  width=st.integers(1, 120),
  height=st.integers(1, 120),
  size=st.integers(1, 64),
  place=st.floats(0, 1),
)
# Halves, on either side; eighths; odd ones; enlarging.
@also(width=96, height=64, size=32, place=0.3)
@also(width=64, height=112, size=32, place=0.7)
@also(width=64, height=90, size=16, place=0.4)
@also(width=60, height=101, size=32, place=1.0)
@also(width=101, height=60, size=32, place=0.5)
@also(width=3, height=2, size=64, place=0.9)
def test_a_square_is_pillows_resize_and_crop(width, height, size, place):
  image = Image.fromarray(pixels(width, height))
  right, down = (
    round(place * (side - size))
    for side in covering_size((width, height), (size, size))
  )
  found = resized_crop(image, (size, size), (right, down))
  np.testing.assert_array_equal(
    np.asarray(found), by_pillow(image, size, (right, down))
  )


@pytest.mark.parametrize(
  "sides", [(512, 512), (768, 512), (512, 1024), (640, 480), (683, 1024)]
)
def test_real_sizes_are_pillows_resize_and_crop(sides):
  data = jpeg(*sides)
  found = visit(ImageTransform(config=ImageConfig(image_size=256)), data)
  assert (found.shape, found.dtype) == ((256, 256, 3), np.uint8)
  expected = by_pillow(Image.open(io.BytesIO(data)), 256)
  np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
  ("sides", "expected"),
  [
    ((512, 512), (256, 256)),
    ((640, 480), (341, 256)),  # torchvision's Resize(256) of 640 x 480
    ((480, 641), (256, 341)),
    ((100, 300), (256, 768)),
  ],
)
def test_the_short_side_gets_the_size(sides, expected):
  assert covering_size(sides, (256, 256)) == expected


@pytest.mark.parametrize(
  ("sides", "corner", "fitted"),
  [
    ((40, 10), (0, 6), (16, 4)),
    ((10, 40), (6, 0), (4, 16)),
    ((33, 11), (0, 5), (16, 5)),
    ((8, 8), (0, 0), (16, 16)),
    ((1000, 2), (0, 7), (16, 1)),
  ],
)
def test_padding_keeps_the_whole_image(sides, corner, fitted):
  image = Image.fromarray(pixels(*sides))
  transform = ImageTransform(config=ImageConfig(image_size=16, crop="pad"))
  square = visit(transform, encoded(image))
  left, top = corner
  inside = np.s_[top : top + fitted[1], left : left + fitted[0]]
  np.testing.assert_array_equal(
    square[inside], np.asarray(image.resize(fitted, BICUBIC))
  )
  square = square.copy()
  square[inside] = 0
  assert not square.any()


def test_padded_pixels_do_not_depend_on_the_draws_and_may_be_mirrored():
  data = encoded(Image.fromarray(pixels(40, 10)))
  config = {"image_size": 16, "crop": "pad"}
  still = ImageTransform(config=ImageConfig(**config))
  turned = ImageTransform(config=ImageConfig(**config, flip_probability=1.0))
  first, second = visit(still, data, seed=1), visit(still, data, seed=2)
  np.testing.assert_array_equal(first, second)
  np.testing.assert_array_equal(visit(turned, data), first[:, ::-1])


def test_a_random_crop_reaches_both_ends_and_repeats_with_its_seed():
  ramp = np.zeros((8, 24, 3), np.uint8)
  ramp[:] = 10 * np.arange(24, dtype=np.uint8)[:, None]
  data = encoded(ramp)
  transform = ImageTransform(config=ImageConfig(image_size=8, crop="random"))
  lefts = [visit(transform, data, seed)[0, 0, 0] // 10 for seed in range(300)]
  assert set(lefts) == set(range(17))
  assert lefts == [
    visit(transform, data, seed)[0, 0, 0] // 10 for seed in range(300)
  ]
  centre = ImageTransform(config=ImageConfig(image_size=8))
  assert {visit(centre, data, seed)[0, 0, 0] // 10 for seed in range(9)} == {8}


def test_flips_have_their_share_and_keep_to_what_may_be_flipped():
  data = encoded(pixels(8, 8))
  plain = visit(ImageTransform(config=ImageConfig(image_size=8)), data)
  np.testing.assert_array_equal(plain, pixels(8, 8))
  transform = ImageTransform(
    config=ImageConfig(image_size=8, flip_probability=0.25)
  )
  flipped = 0
  for seed in range(400):
    found = visit(transform, data, seed)
    assert (found == plain).all() or (found == plain[:, ::-1]).all()
    flipped += (found == plain[:, ::-1]).all()
    kept = visit(transform, data, seed, may_flip=False)
    assert (kept == plain).all()
  # Four standard deviations of a binomial of 400 and 1/4.
  assert abs(flipped - 100) < 4 * np.sqrt(400 * 0.25 * 0.75)


@pytest.mark.parametrize("crop", ["centre", "random"])
@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_options_do_not_shift_the_draws_of_others(crop, flip):
  transform = ImageTransform(
    config=ImageConfig(image_size=8, crop=crop, flip_probability=flip)
  )
  rng, reference = np.random.default_rng(5), np.random.default_rng(5)
  transform(pictures.JPEG, rng, record_id="x", may_flip=bool(flip))
  reference.integers(10 - 8 + 1), reference.integers(1), reference.random()
  assert rng.bit_generator.state == reference.bit_generator.state


def test_a_draft_is_close_and_not_equal():
  data = jpeg(256, 192, quality=95)
  exact = visit(ImageTransform(config=ImageConfig(image_size=64)), data).astype(
    int
  )
  draft = visit(
    ImageTransform(config=ImageConfig(image_size=64), jpeg_decoding="draft"),
    data,
  )
  # Measured: 1.3 grey levels on average.
  assert 0 < np.abs(exact - draft).mean() < 3


def test_a_sliver_is_refused_before_it_is_blown_up():
  data = encoded(pixels(3000, 1))
  with pytest.raises(
    BadRecord, match="3000 x 1 becomes 768000 x 256"
  ) as caught:
    visit(ImageTransform(config=ImageConfig(image_size=256)), data)
  assert caught.value.reason == "image_too_large"
  assert visit(
    ImageTransform(config=ImageConfig(image_size=16)), data
  ).shape == (16, 16, 3)


@pytest.mark.parametrize("name", pictures.HOSTILE)
def test_hostile_files_are_refused_in_both_decodings(name):
  data, reason = pictures.HOSTILE[name]
  for decoding in ("exact", "draft"):
    with pytest.raises(BadRecord) as caught:
      visit(
        ImageTransform(
          config=ImageConfig(image_size=8), jpeg_decoding=decoding
        ),
        data,
      )
    assert caught.value.reason == reason


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"image_size": 0}, "image_size must be in 1 to 16384, got 0"),
    ({"crop": "center"}, "one of .*'centre', 'random'.*'center'"),
    ({"flip_probability": 1.5}, r"in \[0, 1\], got 1.5"),
  ],
)
def test_senseless_settings_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    ImageConfig(**options)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"jpeg_decoding": "fast"}, "jpeg_decoding must be one of"),
    ({"max_pixels": 63}, "max_pixels must be in 64 to 89478485"),
    ({"max_pixels": 10**9}, "got 1000000000"),
  ],
)
def test_senseless_options_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    ImageTransform(config=ImageConfig(image_size=8), **options)
