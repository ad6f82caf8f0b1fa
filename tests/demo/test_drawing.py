"""What the tab Draw asks for becomes a job; editors give images and masks."""

import numpy as np
import pytest
from PIL import Image

from ddit_jax.demo import drawing
from ddit_jax.demo.drawing import (
  Forming,
  drawing_job,
  edited_parts,
  enlarged,
  native,
  stages_html,
)
from ddit_jax.errors import InputError
from ddit_jax.serving.messages import Limits, read_image

LIMITS = Limits(max_images=4)
FIELDS = {"prompt": "a red seven", "seed": 5, "n": 2, "solver": None}


@pytest.fixture
def picture():
  return np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)


@pytest.fixture
def editor(tmp_path, picture):
  """What Gradio's editor gives, a left half painted over."""
  layer = np.zeros((512, 512, 4), np.uint8)
  layer[:, :256] = 232, 89, 12, 153
  paths = {}
  for name, pixels in {"background": enlarged(picture), "layer": layer}.items():
    paths[name] = str(tmp_path / f"{name}.png")
    Image.fromarray(pixels).save(paths[name])
  return {"background": paths["background"], "layers": [paths["layer"]]}


def test_an_enlarged_image_is_found_again_pixel_by_pixel(picture):
  large = enlarged(picture)
  assert large.shape == (512, 512, 3)
  np.testing.assert_array_equal(
    native(Image.fromarray(large), (16, 16)), picture
  )
  wide = enlarged(picture[:8])
  assert wide.shape == (256, 512, 3)
  np.testing.assert_array_equal(
    native(Image.fromarray(wide), (8, 16)), picture[:8]
  )
  # Of another image, or another size, nothing is dropped.
  large[3, 3] ^= 1
  for image, size in ((large, (16, 16)), (picture, (8, 8)), (wide, (16, 16))):
    image = Image.fromarray(image)
    assert native(image, size) is image


def test_an_editor_gives_an_image_and_what_is_painted(
  editor, picture, monkeypatch
):
  read = []

  def counted(*given):
    read.append(given)
    return read_image(*given)

  monkeypatch.setattr(drawing, "read_image", counted)
  parts = edited_parts(editor, LIMITS)
  # Each file once.
  assert len(read) == 2
  np.testing.assert_array_equal(parts["image"], enlarged(picture))
  mask = np.asarray(parts["mask_image"])
  assert mask[:, :256].all() and not mask[:, 256:].any()
  assert set(edited_parts({**editor, "layers": []}, LIMITS)) == {"image"}
  for nothing in (None, {"background": None, "layers": []}):
    assert edited_parts(nothing, LIMITS) == {}
  with pytest.raises(InputError, match="painted, but on no image"):
    edited_parts({**editor, "background": None}, LIMITS)
  with pytest.raises(InputError, match="image_too_large"):
    edited_parts(editor, Limits(max_pixels=512 * 512 - 1))


def test_a_job_is_checked_and_has_the_image_to_change(
  pipeline, editor, picture
):
  edited = edited_parts(editor, LIMITS)
  group, rows, forming = drawing_job(
    FIELDS, pipeline, LIMITS, edited=edited, strength=0.5
  )
  assert group.size == (16, 16) and group.given == ("image", "mask_image")
  assert dict(group.settings)["image.strength"] == 0.5
  # The tiny run has two steps.
  assert forming.num_steps == 1
  assert [row.seed for row in rows] == [5, 6]
  for row in rows:
    np.testing.assert_array_equal(row.image, picture)
    assert row.mask_image[:, :8].all() and not row.mask_image[:, 8:].any()
  group, rows, forming = drawing_job(FIELDS, pipeline, LIMITS)
  assert group.given == () and group.settings == () and rows[0].image is None
  assert forming.num_steps == 2
  with pytest.raises(InputError, match="does not know 'dog'"):
    drawing_job({**FIELDS, "prompt": "a dog"}, pipeline, LIMITS)
  with pytest.raises(InputError, match="strength must be in"):
    drawing_job(FIELDS, pipeline, LIMITS, edited=edited, strength=0.0)


def test_stages_are_even_and_end_with_the_last_step(picture):
  forming = Forming(num_images=2, num_steps=28)
  for step in range(28):
    for place in (0, 1):
      assert forming.see(place, step, picture + np.uint8(place))
  np.testing.assert_array_equal(forming.images[1], picture + np.uint8(1))
  assert [step for step, _ in forming.stages] == [1, 5, 10, 15, 19, 23, 28]
  html = stages_html(forming.stages)
  assert html.count("data:image/png") == 7 and ">28<" in html
  assert stages_html([]) == ""
