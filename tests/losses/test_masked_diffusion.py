"""The text loss against plain numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddit_jax.diffusion.masked_diffusion import MaskedDiffusion
from ddit_jax.losses import masked_diffusion

VOCAB, MASK = 5, 4
IS_TARGET = jnp.asarray([[False, True, True], [True, True, True]])


def corrupted(divisor="all_positions", **settings):
  tokens = jnp.asarray([[0, 1, 2], [3, 2, 1]])
  return masked_diffusion.mask_texts(
    jnp.zeros((2, 4, 4, 1)),
    tokens,
    IS_TARGET,
    jax.random.key(0),
    jnp.int32(5),
    masked_diffusion=MaskedDiffusion(**settings),
    loss_normalization=divisor,
    mask_id=MASK,
  )


@pytest.mark.parametrize(
  ("divisor", "count"), [("all_positions", 6), ("target_positions", 5)]
)
def test_divisors_count_what_they_say(divisor, count):
  assert float(masked_diffusion.loss_normalizer(IS_TARGET, divisor)) == count
  plain = corrupted("all_positions")
  other = corrupted(divisor)
  np.testing.assert_allclose(other.weight * count, plain.weight * 6, rtol=1e-6)


def test_likelihoods_equal_a_plain_loop():
  examples = corrupted()
  logits = np.random.default_rng(0).normal(size=(2, 3, VOCAB))
  got = -masked_diffusion.token_log_likelihoods(
    jnp.asarray(logits, jnp.float32), examples, MASK
  ).sum(axis=-1)
  want = np.zeros(2)
  for row, column in np.ndindex(2, 3):
    if bool(examples.is_masked[row, column]):
      weights = np.exp(logits[row, column, :MASK])
      token = int(examples.clean_tokens[row, column])
      want[row] -= np.log(weights[token] / weights.sum())
  # Error measured: 1.2e-7 relative.
  np.testing.assert_allclose(got, want, rtol=1e-6)
  assert want.any()


def test_visible_tokens_never_count():
  examples = corrupted()
  far = jnp.where(examples.is_masked[..., None], 0.0, 1e4)
  logits = jnp.zeros((2, 3, VOCAB)).at[..., :1].add(far)
  got = -masked_diffusion.token_log_likelihoods(logits, examples, MASK).sum(-1)
  want = np.asarray(examples.is_masked.sum(-1)) * np.log(MASK)
  np.testing.assert_allclose(got, want, rtol=1e-6)


def test_fixed_tokens_are_never_masked():
  examples = corrupted(mask_count="exact", min_time=0.99)
  np.testing.assert_array_equal(examples.is_masked, IS_TARGET)
  np.testing.assert_array_equal(examples.tokens[0, 0], 0)
