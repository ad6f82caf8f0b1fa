"""Attention against three loops and against what must hold exactly."""

import jax.numpy as jnp
import numpy as np
import pytest

from ddit_jax.models.layers import attend
from tests.models import oracles


def drawn(*shapes, seed=0, scale=1.0):
  draw = np.random.default_rng(seed)
  return [jnp.float32(scale * draw.normal(size=s)) for s in shapes]


@pytest.mark.parametrize("kernel", ["auto", "xla"])
@pytest.mark.parametrize("shape", [(2, 5, 3, 4), (1, 7, 1, 8)])
def test_attention_equals_three_loops(shape, kernel):
  query, key, value = drawn(shape, shape, shape)
  want = oracles.attention(*(np.asarray(x, "f8") for x in (query, key, value)))
  # Measured 2e-7.
  np.testing.assert_allclose(
    attend(query, key, value, kernel=kernel), want, atol=4e-6
  )


def test_one_key_means_its_value_is_copied():
  query, key, value = drawn((2, 3, 2, 4), (2, 1, 2, 4), (2, 1, 2, 4))
  got = attend(query, key, value)
  np.testing.assert_array_equal(got, np.repeat(value, 3, axis=1))


def test_keys_that_are_none_might_as_well_not_be_there():
  query, key, value = drawn((2, 3, 2, 4), (2, 5, 2, 4), (2, 5, 2, 4))
  key_mask = jnp.array([[True] * 3 + [False] * 2, [True] * 5])
  got = attend(query, key, value, key_mask=key_mask)
  # Measured 1e-7.
  np.testing.assert_allclose(
    got[:1], attend(query[:1], key[:1, :3], value[:1, :3]), atol=2e-6
  )
  np.testing.assert_allclose(
    got[1:], attend(query[1:], key[1:], value[1:]), atol=2e-6
  )


def test_the_order_of_keys_does_not_matter():
  query, key, value = drawn(*[(2, 6, 2, 4)] * 3)
  order = np.random.default_rng(1).permutation(6)
  # Measured 2e-7.
  np.testing.assert_allclose(
    attend(query, key, value),
    attend(query, key[:, order], value[:, order]),
    atol=3e-6,
  )


def test_huge_scores_pick_the_best_key_without_overflow():
  query, key, value = drawn(*[(1, 4, 1, 8)] * 3, scale=1e4)
  best = np.argmax(query[0, :, 0] @ key[0, :, 0].T, axis=-1)
  np.testing.assert_allclose(
    attend(query, key, value)[0, :, 0], value[0, best, 0], rtol=1e-6
  )


def test_half_precision_has_a_float32_softmax():
  query, key, value = drawn(*[(2, 64, 2, 16)] * 3)
  halves = [jnp.asarray(x, jnp.bfloat16) for x in (query, key, value)]
  got = attend(*halves)
  assert got.dtype == jnp.bfloat16
  want = oracles.attention(*(np.asarray(x, np.float64) for x in halves))
  # Measured 0.0027 at values up to 0.7: rounding of the result and of the
  # softmax weights fed to the second product.
  np.testing.assert_allclose(np.asarray(got, np.float64), want, atol=0.015)
