"""The bound of a drawn text depends on nothing but the text."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddit_jax.experiment.model import DualModel
from ddit_jax.losses.drawn_texts import (
  DrawnTexts,
  log_probability,
  scored_positions,
)
from ddit_jax.models.config import size
from ddit_jax.models.module import Network
from ddit_jax.prng import row_keys

VOCAB, LENGTH, ROWS = 11, 6, 4
NETWORK = Network(
  dataclasses.replace(
    size("tiny", vocab_size=VOCAB, max_text_length=LENGTH),
    depth=1,
    width=16,
    num_heads=2,
    num_null_image_tokens=2,
  )
)
MODEL = DualModel(network=NETWORK, mask_id=VOCAB - 1)


@pytest.fixture(scope="module")
def variables():
  made = jax.jit(NETWORK.init)(jax.random.key(0))
  # New heads are zero, and would give every token the same probability.
  noise = np.random.default_rng(0)
  return {
    "network": jax.tree.map(
      lambda x: x + 0.1 * noise.normal(size=x.shape).astype("f4"), made
    )
  }


def texts() -> DrawnTexts:
  rng = np.random.default_rng(1)
  places = np.broadcast_to(np.arange(LENGTH), (ROWS, LENGTH))
  keys = row_keys(jax.random.key(3), jnp.arange(ROWS))
  return DrawnTexts(
    latents=jnp.asarray(rng.normal(size=(ROWS, 8, 8, 3)), jnp.float32),
    tokens=jnp.asarray(rng.integers(0, VOCAB - 1, (ROWS, LENGTH)), jnp.int32),
    is_given=jnp.asarray(places < 2),
    is_scored=jnp.asarray((places >= 2) & (places < 5)),
    draws=jax.random.key_data(keys),
  )


bound = functools.partial(
  jax.jit(log_probability, static_argnums=(0, 3)), MODEL
)


def test_what_follows_the_text_is_not_read(variables):
  first = texts()
  padding = jnp.where(first.is_given | first.is_scored, first.tokens, 0)
  np.testing.assert_array_equal(
    bound(variables, first, 4),
    bound(variables, first.replace(tokens=padding), 4),
  )


def test_other_rows_change_nothing(variables):
  first = texts()
  others = jax.tree.map(lambda x: x.at[1:].set(x[:-1]), first)
  alone = bound(variables, first, 4)[0]
  np.testing.assert_array_equal(alone, bound(variables, others, 4)[0])
  # Another batch size is another program: 1e-7 measured.
  single = jax.tree.map(lambda x: x[:1], first)
  np.testing.assert_allclose(alone, bound(variables, single, 4)[0], rtol=1e-6)


def test_the_masks_follow_from_the_rows_draws(variables):
  first = texts()
  again = bound(variables, first, 4)
  np.testing.assert_array_equal(again, bound(variables, first, 4))
  other = first.replace(draws=first.draws[::-1])
  assert (again != bound(variables, other, 4)).any()


def test_a_text_is_scored_up_to_its_first_end():
  tokens = jnp.array([[7, 9, 3, 9, 9], [7, 7, 9, 4, 9], [7, 7, 1, 2, 3]])
  is_given = jnp.array([[1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 0, 0, 0]])
  found = scored_positions(tokens, is_given.astype(bool), 9)
  np.testing.assert_array_equal(
    found, [[0, 0, 1, 1, 0], [0, 0, 1, 0, 0], [0, 0, 1, 1, 1]]
  )
