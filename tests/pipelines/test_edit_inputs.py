"""Images to change and masks, from arrays and Pillow images."""

import io

import numpy as np
import pytest
from PIL import Image

from ddit_jax.errors import InputError
from ddit_jax.pipelines.edit_inputs import edited_images, masks

RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 256, (8, 12, 3), np.uint8)
SIZE = (8, 12)


@pytest.mark.parametrize(
  "image",
  [PICTURE, PICTURE / 255, Image.fromarray(PICTURE), [PICTURE, PICTURE]],
)
def test_one_image_serves_all_prompts_or_each_has_its_own(image):
  found = edited_images(image, SIZE, 2)
  np.testing.assert_array_equal(found, np.stack([PICTURE] * 2))


def test_other_sizes_are_resized_and_lost_edges_are_logged(caplog):
  assert edited_images(Image.new("L", (24, 16), 7), SIZE, 1).max() == 7
  assert caplog.text == ""
  edited_images(Image.new("RGBA", (24, 24)), SIZE, 1)
  assert "image of 24 x 24 pixels loses its edges to fit 8 x 12" in caplog.text


@pytest.mark.parametrize("kind", ["grey", "bool", "float", "pillow"])
def test_white_is_drawn_anew(kind):
  want = RNG.random(SIZE) < 0.5
  grey = np.where(want, 200, 100).astype(np.uint8)
  given = {
    "grey": grey,
    "bool": want,
    "float": np.where(want, 0.6, 0.4),
    "pillow": Image.fromarray(grey),
  }[kind]
  found = masks(given, SIZE, 3)
  assert found.dtype == np.float32 and found.shape == (3, *SIZE)
  np.testing.assert_array_equal(found[2], want)


@pytest.mark.parametrize(
  ("function", "given", "message"),
  [
    (edited_images, PICTURE[:4], r"shape \(4, 12, 3\), the drawing is 8 x 12"),
    (edited_images, [PICTURE], "image has 1 images for 2 prompts"),
    (edited_images, 3, "image is not an image: 3"),
    (edited_images, PICTURE.astype(float), "floats from 0 to 255"),
    (masks, PICTURE, r"mask_image has 8 images for 2 prompts"),
    (masks, PICTURE[:, :4, 0], r"mask_image has the shape \(8, 4\)"),
    (masks, np.zeros(SIZE, bool), "mask_image is black"),
  ],
)
def test_what_does_not_fit_is_refused(function, given, message):
  with pytest.raises(InputError, match=message):
    function(given, SIZE, 2)


def opened(image, *, is_cut=False, **options):
  """A picture as `Image.open` gives it, not decoded yet."""
  file = io.BytesIO()
  image.save(file, "PNG", **options)
  data = file.getvalue()
  return Image.open(io.BytesIO(data[: len(data) // 2] if is_cut else data))


def test_a_mask_is_turned_as_its_image():
  exif = Image.Exif()
  # Rotated by 90 degrees.
  exif[0x0112] = 6
  lower = np.repeat(np.uint8([[0], [255]]), 12, 1).repeat(4, 0)
  mask = Image.fromarray(lower).transpose(Image.Transpose.ROTATE_90)
  picture = Image.fromarray(PICTURE).transpose(Image.Transpose.ROTATE_90)
  found = masks(opened(mask, exif=exif), SIZE, 1)
  np.testing.assert_array_equal(found[0], lower / 255)
  found = edited_images(opened(picture, exif=exif), SIZE, 1)
  np.testing.assert_array_equal(found[0], PICTURE)


def test_what_a_mask_shows_through_is_white():
  mask = Image.new("LA", SIZE[::-1], (0, 255))
  mask.putpixel((3, 2), (0, 0))
  (found,) = masks(mask, SIZE, 1)
  assert found.sum() == found[2, 3] == 1


@pytest.mark.parametrize(
  ("function", "name"), [(edited_images, "image"), (masks, "mask_image")]
)
@pytest.mark.parametrize(
  ("image", "message"),
  [
    (Image.new("F", SIZE[::-1], 1.0), "has Pillow's mode F"),
    (Image.new("I", SIZE[::-1], 255), "has Pillow's mode I"),
    (opened(Image.fromarray(PICTURE), is_cut=True), "cannot be decoded: "),
  ],
)
def test_pictures_that_training_would_not_read_are_refused(
  function, name, image, message
):
  with pytest.raises(InputError, match=f"^{name} {message}"):
    function(image, SIZE, 1)
