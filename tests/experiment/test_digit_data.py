"""The digit world as training reads it: records, order, mixture."""

import dataclasses

import jax
import numpy as np
import pytest

from ddit_jax.data.tokenizers import word_tokenizer
from ddit_jax.digits import grammar
from ddit_jax.digits.world import WORLDS
from ddit_jax.experiment.digit_data import DigitData
from tests import tiny_run


@pytest.fixture
def settings():
  return tiny_run.settings()


@pytest.fixture
def tokenizer():
  return word_tokenizer(grammar.words())


def digit_data(settings) -> DigitData:
  return DigitData(
    settings, WORLDS["one_digit"], word_tokenizer(grammar.words())
  )


def batches(settings, count=3):
  stream = digit_data(settings).training_stream()
  found = [next(stream)[0] for _ in range(count)]
  stream.close()
  return jax.tree.map(lambda *parts: np.concatenate(parts), *found)


def test_a_seed_fixes_records_and_order(settings):
  first, again = (batches(settings) for _ in range(2))
  jax.tree.map(np.testing.assert_array_equal, first, again)
  other = batches(dataclasses.replace(settings, seed=1))
  assert (first.text_to_image.images != other.text_to_image.images).any()
  assert (first.image_to_text.tokens != other.image_to_text.tokens).any()


def test_batches_have_the_sizes_and_types_of_the_settings(settings, tokenizer):
  batch = batches(settings, count=1)
  side = WORLDS["one_digit"].canvas
  length = settings.data.image_to_text.text_length
  for part in (batch.text_to_image, batch.image_to_text):
    assert part.images.shape == (8, side, side, 3)
    assert part.images.dtype == np.uint8
    assert part.tokens.shape == (8, length)
    assert part.tokens.max() < tokenizer.mask_id
  assert batch.image_to_text.loss_mask.shape == (8, length)


def test_no_text_loses_a_word_to_the_tokenizer(settings, tokenizer):
  unknown = tokenizer.backend.token_to_id("<unk>")
  drawn = {"split": "train", "size": 300, "seed": 0}
  shares = {"caption": 1.0, "what_number": 1.0, "color_yes_no": 1.0}
  images = digit_data(settings).image_records(**drawn)
  texts = digit_data(settings).text_records(shares, **drawn)
  for records in (images, texts):
    assert (records.arrays["tokens"] != unknown).all()
  assert texts.num_truncated == 0


def test_validation_is_the_same_for_every_seed_and_shares_no_image(settings):
  batch = digit_data(settings).validation_batch()
  other = dataclasses.replace(settings, seed=1)
  again = digit_data(other).validation_batch()
  jax.tree.map(np.testing.assert_array_equal, batch, again)
  images = digit_data(settings).image_records(split="train", size=64, seed=0)
  seen = {image.tobytes() for image in images.arrays["images"]}
  held_out = {image.tobytes() for image in batch.text_to_image.images}
  assert len(held_out) == settings.data.validation_size
  assert not seen & held_out


def test_kinds_of_text_follow_the_mixture_as_it_changes(settings):
  mixture = {"0": {"color_yes_no": 3.0, "caption": 1.0}, "2": {"caption": 1.0}}
  stream = dataclasses.replace(settings.data.image_to_text, mixture=mixture)
  data = dataclasses.replace(settings.data, image_to_text=stream)
  drawn = batches(dataclasses.replace(settings, data=data), count=4)
  # A caption has no given words.
  is_caption = drawn.image_to_text.loss_mask.all(axis=1)
  assert is_caption.reshape(4, -1).sum(axis=1).tolist() == [2, 2, 8, 8]


def test_unknown_kinds_of_text_are_refused(settings):
  stream = dataclasses.replace(
    settings.data.image_to_text, mixture={"0": {"captoin": 1.0}}
  )
  data = dataclasses.replace(settings.data, image_to_text=stream)
  with pytest.raises(ValueError, match=r"'captoin': did you mean 'caption'\?"):
    digit_data(dataclasses.replace(settings, data=data)).training_stream()


def test_a_stream_may_have_a_pool_of_its_own():
  """8 images over and over; the texts' pool stays as it was."""
  default = tiny_run.settings()
  small = tiny_run.settings(data__text_to_image__pool_size="8")
  seen, usual = batches(small, count=4), batches(default, count=4)
  images = [image.tobytes() for image in seen.text_to_image.images]
  assert (len(images), len(set(images))) == (32, 8)
  assert len({image.tobytes() for image in usual.text_to_image.images}) == 32
  jax.tree.map(
    np.testing.assert_array_equal, seen.image_to_text, usual.image_to_text
  )
