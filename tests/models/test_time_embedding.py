"""The sinusoid by loops, and the two-layer embedding."""

import jax.numpy as jnp
import numpy as np
import pytest

from ddit_jax.models.embeddings import VectorEmbedding, sinusoid
from tests.models import oracles


def test_the_sinusoid_equals_loops():
  sigma = jnp.array([0.0, 0.001, 0.25, 0.75, 1.0])
  # Angles reach 1000, where float32 rounds by 3e-5. Measured 5e-5.
  np.testing.assert_allclose(
    sinusoid(sigma), oracles.sinusoid(sigma), atol=2e-4
  )


def test_small_times_are_sharp():
  sigma = jnp.array([0.0, 0.001, 0.004])
  # Measured 1.7e-7 at angles up to 4.
  np.testing.assert_allclose(
    sinusoid(sigma, 64), oracles.sinusoid(sigma, 64), atol=3e-6
  )


def test_time_zero_is_ones_then_zeros():
  got = np.asarray(sinusoid(jnp.zeros(1)))
  np.testing.assert_array_equal(got[0, :128], 1)
  np.testing.assert_array_equal(got[0, 128:], 0)


@pytest.mark.parametrize("index", [0, 1, 64, 127])
def test_each_pair_lies_on_the_unit_circle(index):
  got = np.asarray(sinusoid(jnp.array([0.37])))[0]
  # Measured 1e-7.
  assert got[index] ** 2 + got[128 + index] ** 2 == pytest.approx(1, abs=1e-6)


def test_the_embedding_is_linear_silu_linear():
  draw = np.random.default_rng(0)
  shapes = {"linear_1": (6, 5), "linear_2": (5, 5)}
  params = {
    name: {
      "kernel": draw.normal(size=shape).astype("f4"),
      "bias": draw.normal(size=shape[1]).astype("f4"),
    }
    for name, shape in shapes.items()
  }
  x = jnp.float32(draw.normal(size=(3, 6)))
  got = VectorEmbedding(5).apply({"params": params}, x)
  want = oracles.two_layers(oracles.in_float64(params), np.float64(x))
  # Measured 6e-7 at values up to 8.
  np.testing.assert_allclose(got, want, atol=2e-5)
