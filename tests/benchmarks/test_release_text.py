"""The benchmark's peer is the release's sampler, with its cache."""

import importlib
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parity import release_text_sampler

from ddit_jax.prng import row_keys

MASK, LENGTH, TEXTS, STEPS = 5, 6, 4, 8


def logits(tokens):
  """Of every position by its number and the sum of all tokens."""
  numbers = jnp.arange(tokens.shape[-1])[None]
  place = tokens.sum(axis=-1, keepdims=True) + numbers
  scale = 1.7 + jnp.arange(MASK + 1.0)
  return jnp.sin(place[..., None] * scale[None, None])


class Model:
  variables = ()

  def encode(self, _, images):
    return images

  def condition(self, _, tokens):
    return tokens

  def predict(self, _, latents, tokens, time):
    return types.SimpleNamespace(logits=logits(tokens))


@pytest.fixture
def release_text():
  return importlib.import_module("release_text")


def test_kept_predictions_change_no_token(release_text):
  rng = np.random.default_rng(0)
  tokens = rng.integers(0, MASK, (TEXTS, LENGTH)).astype(np.int32)
  given = np.arange(LENGTH) < np.arange(TEXTS)[:, None]
  images = np.zeros((TEXTS, 2, 2, 3), np.uint8)
  release = release_text.Release(Model(), MASK, num_steps=STEPS)
  found = release.texts(images, tokens, given)
  keys = row_keys(jax.random.key(0), jnp.arange(TEXTS))
  for row, key in enumerate(keys):
    shape = (1, LENGTH, MASK + 1)
    uniforms = jnp.stack(
      [
        jax.random.uniform(jax.random.fold_in(key, step), shape)
        for step in range(STEPS)
      ]
    )
    start = jnp.where(given[row], tokens[row], MASK)[None]
    want, trace = release_text_sampler.states_of(
      logits, start, uniforms, mask_id=MASK
    )
    np.testing.assert_array_equal(found.tokens[row], want[0])
    before = jnp.concatenate([start[None], trace[:-1]])
    # A call at first and after each change, but the last step's; and one more.
    changes = (trace != before).any(axis=(1, 2))[:-1].sum()
    assert found.calls[row] == changes + 2
