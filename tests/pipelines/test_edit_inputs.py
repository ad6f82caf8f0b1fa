"""Images to change and masks, from arrays and Pillow images."""

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
