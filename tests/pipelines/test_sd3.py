"""Plain SD3 draws: seeds, sizes, negative prompts, and what is cut off."""

import dataclasses
import logging

import jax
import numpy as np
import pytest

from ddit_jax.errors import InputError
from ddit_jax.pipelines.load import load
from ddit_jax.pipelines.sd3 import Sd3Pipeline
from ddit_jax.sampling.image_sampler import ImageSampling
from ddit_jax.sharding.mesh import MeshConfig
from tests.pipelines import sd3_files

PROMPTS = ["a red cat", "a dog", "a red cat"]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
  folder = sd3_files.write(tmp_path_factory.mktemp("sd3") / "sd3")
  made = load(str(folder))
  made.sample = dataclasses.replace(
    made.sample, image=ImageSampling(num_inference_steps=2)
  )
  return made


def test_images_are_drawn_from_prompts_alike_for_a_seed(pipeline):
  assert isinstance(pipeline, Sd3Pipeline)
  images = pipeline.text_to_image(PROMPTS, seed=1).images
  # base_grid 4, patches of 2, the autoencoder halves.
  assert images.shape == (3, 16, 16, 3) and images.dtype == np.uint8
  np.testing.assert_array_equal(images, pipeline.text_to_image(PROMPTS, seed=1))
  assert (images != pipeline.text_to_image(PROMPTS, seed=2).images).any()
  # Every row has noise of its own.
  assert (images[0] != images[2]).any()


def test_text_and_negative_text_change_the_image(pipeline):
  def draw(prompt, **options):
    return pipeline.text_to_image([prompt], **options).images

  plain = draw("a red cat")
  assert (plain != draw("a red dog")).any()
  negative = draw("a red cat", negative_prompt="a dog")
  assert (plain != negative).any()
  np.testing.assert_array_equal(plain, draw("a red cat", negative_prompt=""))
  with pytest.raises(InputError, match="has no effect without guidance"):
    draw(
      "a red cat", sample={"image.guidance_scale": 1.0}, negative_prompt="a dog"
    )


@pytest.mark.slow
def test_devices_and_batches_change_only_rounding(pipeline):
  one = Sd3Pipeline(
    pipeline.tokenizers,
    pipeline.model,
    jax.device_get(pipeline.variables),
    mesh=MeshConfig().make(jax.devices()[:1]),
    sample=pipeline.sample,
    image_size=16,
  )
  prompts = ["a red cat", "a dog", "a cat"]
  want = pipeline.text_to_image(prompts).images.astype(int)
  assert want.std() > 5
  for batch_size in (1, 2, 3):
    got = one.text_to_image(prompts, sample={"batch_size": batch_size}).images
    assert np.abs(got - want).max() <= 1
  alone = one.text_to_image(["a cat"], indices=[2]).images
  assert np.abs(alone - want[2:]).max() <= 1


def test_any_size_that_suits_the_patches_is_drawn(pipeline):
  images = pipeline.text_to_image(["a dog"], size=(8, 24)).images
  assert images.shape == (1, 8, 24, 3)
  for size, message in (
    ((8, 18), "make both sides multiples of 4"),
    ((8, 28), "8 x 28 pixels are too large"),
  ):
    with pytest.raises(InputError, match=message):
      pipeline.text_to_image(["a dog"], size=size)


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ({"prompts": []}, "there are no prompts: give at least one"),
    ({"prompts": "a dog"}, r"a single text: give a list, \['a dog'\]"),
    (
      {"prompts": ["a"], "negative_prompt": ["b", "c"]},
      "has 2 texts for 1 prompts",
    ),
    ({"prompts": ["a"], "indices": [0, 1]}, "indices must be 1 integers"),
    ({"prompts": ["a"], "seed": -1}, "seed must be in 0"),
  ],
)
def test_wrong_arguments_are_refused(pipeline, arguments, message):
  with pytest.raises(InputError, match=message):
    pipeline.text_to_image(**arguments)


def test_what_an_encoder_cannot_read_is_counted(pipeline, caplog):
  long = "red " * 80
  with caplog.at_level(logging.WARNING):
    ids = pipeline.prompt_ids(["a red cat", "a blue dog", long])
  assert {name: array.shape for name, array in ids.items()} == {
    "clip_l": (3, 77),
    "clip_g": (3, 77),
    "text_encoder": (3, 256),
  }
  lines = [record.getMessage() for record in caplog.records]
  assert lines == [
    *(
      f"{name} reads 77 ids: of {long[:40] + ' ...'!r} it loses 5 at the end, "
      "and 0 are unknown"
      for name in ("clip_l", "clip_g")
    ),
    # The word tokenizer that stands for T5's does not know "blue".
    "text_encoder reads 256 ids: of 'a blue dog' it loses 0 at the end, and 1 "
    "are unknown",
  ]


def test_what_needs_a_text_head_is_no_method(pipeline):
  with pytest.raises(AttributeError, match="only draws images, has no 'capt"):
    pipeline.caption(np.zeros((1, 16, 16, 3), np.uint8))
