"""Images, indices and sizes that Python callers give."""

import pathlib

import numpy as np
import pytest
from PIL import Image

from ddit_jax.data.image import ImageConfig, ImageTransform
from ddit_jax.errors import InputError
from ddit_jax.experiment.config import SampleConfig
from ddit_jax.pipelines.inputs import (
  image_batch,
  image_sides,
  row_indices,
  sample_config,
)
from ddit_jax.sampling.text_options import TextSampling


def picture(*shape) -> np.ndarray:
  return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


BATCH = picture(2, 8, 8, 3)


@pytest.mark.parametrize(
  "images",
  [
    BATCH,
    list(BATCH),
    [Image.fromarray(image) for image in BATCH],
    [BATCH[0] / 255, Image.fromarray(BATCH[1])],
    BATCH / 255,
    (BATCH / 255).astype(np.float32),
  ],
)
def test_pixels_arrive_exactly(images):
  found = image_batch(images, 8)
  assert found.dtype == np.uint8
  np.testing.assert_array_equal(found, BATCH)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1", "LA", "I;16"])
def test_pillow_images_of_any_mode_and_size_are_read_as_in_training(
  tmp_path, mode
):
  image = Image.fromarray(picture(12, 20, 3))
  if mode == "I;16":
    image = Image.fromarray(picture(12, 20).astype(np.uint16) * 200)
  elif mode == "RGBA":
    image.putalpha(Image.fromarray(picture(12, 20)))
  else:
    image = image.convert(mode)
  path = tmp_path / ("x.jpg" if mode == "CMYK" else "x.png")
  image.save(path)
  want = ImageTransform(config=ImageConfig(image_size=8))(
    path.read_bytes(),
    np.random.default_rng(0),
    record_id="x",
    may_flip=False,
  )
  with Image.open(path) as opened:
    np.testing.assert_array_equal(image_batch([opened], 8)[0], want)


def test_damaged_files_that_were_opened_are_refused(tmp_path):
  path = tmp_path / "x.png"
  Image.fromarray(picture(32, 32, 3)).save(path)
  path.write_bytes(path.read_bytes()[:900])
  with Image.open(path) as image:
    with pytest.raises(InputError, match=r"images\[0\] cannot be decoded: "):
      image_batch([image], 8)


def test_cropped_images_are_counted(caplog):
  wide, square = Image.new("RGB", (16, 8)), Image.new("RGB", (9, 9))
  image_batch([square, wide, BATCH[0], wide], 8)
  assert caplog.messages == [
    "2 of 4 images (1, 3) are cropped to their centre square"
  ]
  caplog.clear()
  image_batch([square], 8)
  assert caplog.messages == []


@pytest.mark.parametrize(
  ("images", "message"),
  [
    (BATCH[0], r"shape \(8, 8, 3\): give an array of RGB images, \(images, 8"),
    (picture(2, 8, 8), r"shape \(2, 8, 8\)"),
    (picture(2, 8, 8, 1), r"shape \(2, 8, 8, 1\)"),
    (picture(2, 8, 8, 4), r"shape \(2, 8, 8, 4\)"),
    (picture(2, 3, 8, 8), r"shape \(2, 3, 8, 8\)"),
    (picture(2, 16, 16, 3), r"shape \(2, 16, 16, 3\)"),
    (picture(0, 8, 8, 3), r"shape \(0, 8, 8, 3\)"),
    ([picture(8, 9, 3)], r"images\[0\] has the shape \(8, 9, 3\)"),
    ([BATCH[0], picture(8, 8)], r"images\[1\] has the shape \(8, 8\)"),
    ([], "there are no images"),
    (Image.fromarray(BATCH[0]), "give a list of images"),
    ([Image.new("F", (8, 8))], r"images\[0\] has Pillow's mode F"),
    ([Image.new("I", (8, 8))], r"images\[0\] has Pillow's mode I"),
    ([Image.new("L", (1, 2 * 10**6))], "1 x 2000000 becomes 8 x 16000000"),
    (["x.png"], r"images\[0\] is 'x.png': give its pixels, .*Image.open"),
    ([pathlib.Path("x.png")], r"images\[0\] is 'x.png': give its pixels"),
    ("x.png", "images is 'x.png': give its pixels"),
    (b"x.png", "give its pixels"),
    (None, r"shape \(\)"),
    ([[[0], [0, 1]]], r"images\[0\] is not an array of pixels"),
    (BATCH.astype(int), "type int64: give uint8 from 0 to 255, or floats"),
    (BATCH > 9, "type bool"),
    (BATCH.astype(float), "floats from 0 to 255: give floats from 0 to 1"),
    (BATCH / 127.5 - 1, "floats from -1 to 1"),
    (BATCH * np.nan, "floats from nan to nan"),
  ],
)
def test_other_images_are_refused_by_name(images, message):
  with pytest.raises(InputError, match=message) as caught:
    image_batch(images, 8)
  assert "\n" not in str(caught.value)


def test_indices_are_as_given_or_count_up():
  assert row_indices(None, 3).tolist() == [0, 1, 2]
  assert row_indices([7, 2**32 - 1], 2).tolist() == [7, 2**32 - 1]
  for indices in ([1], [1, -1], [0, 2**32], [0.0, 1.0], 5, "ab", [True, False]):
    with pytest.raises(InputError, match="indices must be"):
      row_indices(indices, 2)


def test_one_number_is_a_square():
  assert image_sides(8) == image_sides((8,)) == (8, 8)
  assert image_sides((8, 12)) == (8, 12)


def test_a_preset_replaces_the_checkpoints_text_settings():
  base = SampleConfig(
    text=TextSampling(order="confidence", num_steps=10), batch_size=7
  )
  got = sample_config(base, {"text.preset": "fast", "text.top_p": 0.8})
  assert got.text == TextSampling(preset="fast", top_p=0.8)
  assert (got.batch_size, got.image) == (7, base.image)
  with pytest.raises(InputError, match="num_steps is 5, but the preset 'cap"):
    sample_config(base, {"text.preset": "caption", "text.num_steps": 5})


@pytest.mark.parametrize("value", [1.0, "1.0"])
@pytest.mark.parametrize("is_in_the_checkpoint", [True, False])
def test_a_given_default_is_not_lost_to_a_preset(value, is_in_the_checkpoint):
  base, changes = SampleConfig(), {"text.temperature": value}
  if is_in_the_checkpoint:
    base = SampleConfig(text=TextSampling(preset="turbo"))
  else:
    changes["text.preset"] = "turbo"
  message = "sample.text.temperature is 1.0, but the preset 'turbo' sets 0.0"
  with pytest.raises(InputError, match=message):
    sample_config(base, changes)
  # What is equal, or without a preset, is as given.
  assert sample_config(base, changes | {"text.temperature": 0.0}).text.threshold
  none = sample_config(base, changes | {"text.preset": ""})
  assert none.text == TextSampling()
