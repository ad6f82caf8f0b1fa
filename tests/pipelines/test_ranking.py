"""Choices and pairs are rows of `Pipeline.text_likelihood`."""

import numpy as np
import pytest

from ddit_jax.errors import InputError
from ddit_jax.losses.likelihood import Bound
from ddit_jax.pipelines.likelihood import ScoredTexts
from ddit_jax.pipelines.ranking import choice_nats, pair_nats


class Recorder:
  """Answers with the number of each row, and keeps what it was asked."""

  input_size, input_crop = 4, "centre"

  def prompts(self, questions, instruction):
    return [f"Q: {text} A: " for text in questions]

  def scored_texts(self, texts):
    """Each text becomes one token, its place."""
    self.num_tokenized = len(texts)
    tokens = np.arange(len(texts))[:, None]
    return ScoredTexts(tokens, tokens < 0, tokens >= 0)

  def text_likelihood(self, images, texts, prompts=None, *, indices):
    self.seen = images[:, 0, 0, 0], texts, prompts, indices
    nats = np.arange(len(images), dtype=np.float32)
    return Bound(nats=nats, standard_error=nats)


@pytest.fixture
def images():
  shades = np.arange(2, dtype=np.uint8)[:, None, None, None]
  return np.broadcast_to(shades, (2, 4, 4, 3))


def test_all_choices_of_a_question_share_its_draws(images):
  pipeline = Recorder()
  got = choice_nats(pipeline, images, ["a?", "b?"], [["x", "y", "z"], ["u"]])
  assert [list(row) for row in got] == [[0, 1, 2], [3]]
  shades, texts, prompts, indices = pipeline.seen
  assert list(shades) == list(indices) == [0, 0, 0, 1]
  assert texts == ["x", "y", "z", "u"]
  assert prompts == ["Q: a? A: "] * 3 + ["Q: b? A: "]


def test_a_caption_shares_its_draws_beside_all_images(images):
  pipeline = Recorder()
  got = pair_nats(pipeline, images, ["x", "y", "z"])
  np.testing.assert_array_equal(got, [[0, 1, 2], [3, 4, 5]])
  shades, texts, _, indices = pipeline.seen
  assert list(shades) == [0, 0, 0, 1, 1, 1]
  assert list(indices) == list(texts.tokens[:, 0]) == [0, 1, 2] * 2
  assert pipeline.num_tokenized == 3


def test_choices_must_be_lists(images):
  with pytest.raises(InputError, match="needs a list of choices, got 'red'"):
    choice_nats(Recorder(), images, ["a?", "b?"], ["red", "blue"])
  with pytest.raises(InputError, match="2 images for 1 lists of choices"):
    choice_nats(Recorder(), images, ["a?", "b?"], [["red"]])
