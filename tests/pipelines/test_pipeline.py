"""A checkpoint as an object with one method a task."""

import numpy as np
import pytest

from ddit_jax.errors import InputError
from ddit_jax.pipelines.load import load


@pytest.fixture(scope="module")
def pipeline(trained):
  return load(str(trained))


@pytest.fixture(scope="module")
def images():
  rng = np.random.default_rng(0)
  return rng.integers(0, 256, (3, 16, 16, 3), np.uint8)


def test_images_are_drawn_from_prompts_alike_for_a_seed(pipeline):
  prompts = ["a picture of a red seven", "a blue two", "a red seven"]
  images = pipeline.text_to_image(prompts, seed=1)
  assert images.shape == (3, 16, 16, 3) and images.dtype == np.uint8
  np.testing.assert_array_equal(images, pipeline.text_to_image(prompts, seed=1))
  assert (images != pipeline.text_to_image(prompts, seed=2)).any()
  assert (images[0] != images[2]).any()  # every row has noise of its own


def test_rows_do_not_see_each_other_or_the_padding(pipeline, images):
  """3 rows are padded to 8; the same rows among 6 are padded alike."""
  length = pipeline.config.data.image_to_text.text_length
  tokens = np.full((3, length), 5, np.int32)
  prompt_mask = np.zeros((3, length), bool)
  prompt_mask[:, :2] = True
  few, _ = pipeline.infill(images, tokens, prompt_mask, seed=3)
  twice = [np.concatenate([x, x]) for x in (images, tokens, prompt_mask)]
  many, _ = pipeline.infill(*twice, seed=3)
  assert few.shape == (3, length) and many.shape == (6, length)
  np.testing.assert_array_equal(many[:3], few)


def test_infilling_never_touches_what_is_fixed(pipeline):
  rng = np.random.default_rng(4)
  length, count = pipeline.config.data.image_to_text.text_length, 40
  images = rng.integers(0, 256, (count, 16, 16, 3), np.uint8)
  vocab_size, mask_id = (
    pipeline.tokenizer.vocab_size,
    pipeline.tokenizer.mask_id,
  )
  tokens = rng.integers(0, vocab_size - 1, (count, length), np.int32)
  prompt_mask = rng.random((count, length)) < rng.random((count, 1))
  filled, trace = pipeline.infill(images, tokens, prompt_mask, seed=0)
  np.testing.assert_array_equal(filled[prompt_mask], tokens[prompt_mask])
  assert (filled != mask_id).all()
  num_steps = pipeline.config.sample.text.num_steps
  assert trace.shape == (count, num_steps, length)
  for step in range(num_steps):
    now = trace[:, step]
    np.testing.assert_array_equal(now[prompt_mask], tokens[prompt_mask])
    # What was revealed once stays as it is to the end.
    is_shown = now != mask_id
    np.testing.assert_array_equal(now[is_shown], filled[is_shown])
  np.testing.assert_array_equal(trace[:, -1], filled)


def test_captions_and_answers_are_texts_of_known_words(pipeline, images):
  captions = pipeline.caption(images)
  answers = pipeline.answer(images, ["Q: what color is it? A: "] * 3)
  for text in captions + answers:
    assert isinstance(text, str) and "<extra_id_0>" not in text
  # A caption is an answer to nothing.
  assert captions == pipeline.answer(images, ["", "", ""])


def test_latents_are_pixels_and_back(pipeline, images):
  latents = pipeline.encode(images)
  assert float(latents.min()) >= -1 and float(latents.max()) <= 1
  np.testing.assert_array_equal(pipeline.decode(latents), images)


@pytest.mark.parametrize(
  ("prompt", "message"),
  [
    ("a picture of a red dog", "does not know 'dog' in 'a picture of a red"),
    ("a <extra_id_0> seven", "does not know '<extra_id_0>' in"),
    ("a red seven " * 4, "has 12 tokens"),
  ],
)
def test_prompts_that_would_be_garbled_are_refused(
  pipeline, images, prompt, message
):
  with pytest.raises(InputError, match=message):
    pipeline.text_to_image([prompt])
  with pytest.raises(InputError, match=message):
    pipeline.answer(images[:1], [prompt])
