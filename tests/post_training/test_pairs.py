"""Which sources have pairs; what counts of texts with words that have no id."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddit_jax.batch import ImageToTextBatch
from ddit_jax.data.sources.digits import open_digits
from ddit_jax.errors import InputError
from ddit_jax.post_training.config import TextPolicy
from ddit_jax.post_training.draws import REFERENCE
from ddit_jax.post_training.pairs import TextPairs, check_has_pairs
from ddit_jax.post_training.text_draws import TextDraws

END, UNKNOWN, MASK, VOCAB = 0, 1, 9, 10
# A prompt of two tokens, and a text of three with its end.
CHOSEN, REJECTED = [5, 6, 7, UNKNOWN, 8, END], [5, 6, 3, 4, END, END]
STATE = types.SimpleNamespace(
  params=None,
  ema=None,
  step=jnp.int32(0),
  frozen={REFERENCE: None},
  variables=lambda params: None,
)


class Uniform:
  """A network to which all tokens are equally likely."""

  mask_id, has_mask_embedding = MASK, False

  def encode(self, variables, images, key=None):
    raise NotImplementedError

  text_logits = encode

  def condition(self, variables, tokens, is_text_clean=False):
    del variables, is_text_clean
    return tokens

  def predict(self, variables, latents, condition, sigma, has_image=None):
    del variables, latents, sigma, has_image
    logits = jnp.zeros((*condition.shape, VOCAB))
    return types.SimpleNamespace(logits=logits)


def batch() -> ImageToTextBatch:
  return ImageToTextBatch(
    images=None,
    tokens=jnp.array([CHOSEN]),
    loss_mask=jnp.array([[0, 0, 1, 0, 1, 1]], bool),
    rejected=jnp.array([REJECTED]),
    rejected_loss_mask=jnp.array([[0, 0, 1, 1, 1, 1]], bool),
  )


def test_each_text_of_a_pair_counts_where_it_has_ids():
  pairs = TextPairs(model=Uniform(), policy=TextPolicy(), end_id=END)
  found = pairs.compare(STATE, batch(), None, jax.random.key(0))
  for texts in (found.chosen, found.rejected):
    np.testing.assert_array_equal(texts.is_given, [[1, 1, 0, 0, 0, 0]])
  np.testing.assert_array_equal(found.chosen.is_scored, [[0, 0, 1, 0, 1, 1]])
  np.testing.assert_array_equal(found.rejected.is_scored, [[0, 0, 1, 1, 1, 0]])
  # No token is the mask's.
  wanted = -3 * np.log(VOCAB - 1)
  np.testing.assert_allclose(found.chosen_reference, wanted, rtol=1e-6)
  np.testing.assert_allclose(found.rejected_reference, wanted, rtol=1e-6)


def test_a_word_without_an_id_in_the_reference_is_not_given_to_the_policy():
  draws = TextDraws(model=Uniform(), policy=TextPolicy(), end_id=END)
  drawn, shown = draws.draw(
    STATE, batch(), jax.random.key(0), jnp.int32(0), group_size=64
  )
  np.testing.assert_array_equal(drawn.is_given[0], [1, 1, 0, 0, 0, 0])
  np.testing.assert_array_equal(shown.is_prompt, drawn.is_given)
  assert len(np.unique(drawn.tokens[:, 3])) > 1


def test_pairs_are_for_the_methods_that_take_them():
  task = "image_to_text"
  pairs = {"p": open_digits("p", texts="pairs")}
  questions = {"q": open_digits("q", texts="questions")}
  check_has_pairs(task, "vrpo_pairs", pairs)
  for method in ("", "vrpo"):
    check_has_pairs(task, method, questions)
    with pytest.raises(InputError, match=f"method is '{method}'"):
      check_has_pairs(task, method, pairs)
  # Of the digit world there are no sources.
  for sources in (questions, {}):
    with pytest.raises(InputError, match="name sources of the kind pairs"):
      check_has_pairs(task, "vrpo_pairs", sources)
