"""The image diffusion against published numbers and identities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from ddit_jax.diffusion.flow_matching import (
  FlowMatching,
  classifier_free_guidance,
)


def test_ends_of_the_path_are_clean_and_noise():
  clean, noise = jnp.ones((2, 2, 2, 1)), jnp.full((2, 2, 2, 1), 5.0)
  path = FlowMatching()
  np.testing.assert_array_equal(
    path.noisy_latents(clean, noise, jnp.zeros(2)), clean
  )
  np.testing.assert_array_equal(
    path.noisy_latents(clean, noise, jnp.ones(2)), noise
  )


def test_velocity_is_the_derivative_of_the_path():
  clean, noise = jnp.ones((1, 1, 1, 1)), jnp.full((1, 1, 1, 1), 3.0)
  path = FlowMatching()

  def point(sigma):
    return path.noisy_latents(clean, noise, sigma[None])[0, 0, 0, 0]

  assert jax.grad(point)(jnp.float32(0.3)) == path.velocity(clean, noise)


def test_sigma_squared_is_the_error_of_the_clean_estimate():
  """The release compares clean latents: x_sigma - sigma * v against x."""
  draw = np.random.default_rng(0)
  clean, noise, error = draw.normal(size=(3, 2, 4, 4, 3))
  sigma = np.array([0.2, 0.9])
  spread = sigma[:, None, None, None]
  predicted = noise - clean + error
  estimate = (1 - spread) * clean + spread * noise - spread * predicted
  want = np.square(estimate - clean).mean((1, 2, 3))
  weight = FlowMatching(loss_weighting="sigma_squared").loss_weight(
    jnp.asarray(sigma, jnp.float32)
  )
  got = np.asarray(weight) * np.square(error).mean((1, 2, 3))
  np.testing.assert_allclose(got, want, rtol=1e-6)


@pytest.mark.parametrize("draw", ["independent", "stratified"])
@pytest.mark.parametrize("location", [0.0, 0.7])
def test_training_times_are_logit_normal(draw, location):
  path = FlowMatching(sigma_draw=draw, logit_mean=location)
  sigma = np.asarray(path.training_sigmas(jax.random.key(0), 4000))
  logits = np.log(sigma / (1 - sigma))
  assert stats.kstest(logits, stats.norm(location, 1).cdf).pvalue > 1e-3


def test_stratified_times_put_one_in_each_stratum():
  path = FlowMatching(sigma_draw="stratified")
  sigma = np.asarray(path.training_sigmas(jax.random.key(1), 50), np.float64)
  strata = stats.norm.cdf(np.log(sigma / (1 - sigma))) * 50
  np.testing.assert_array_equal(np.floor(strata), np.arange(50))


def test_the_thousand_grid_rounds_as_the_release_does():
  normals = np.linspace(-4, 4, 101).astype(np.float32)
  got = FlowMatching(sigma_grid="thousand").sigmas_from_normals(
    jnp.asarray(normals)
  )
  uniform = 1 / (1 + np.exp(-normals.astype(np.float64)))
  want = 1 - np.floor(1000 * uniform) / 1000
  np.testing.assert_allclose(got, want, atol=1e-6)
  assert float(got.min()) > 0


def test_guidance_interpolates_and_extrapolates():
  one, zero = jnp.ones(3), jnp.zeros(3)
  np.testing.assert_array_equal(classifier_free_guidance(one, zero, 1.0), one)
  np.testing.assert_array_equal(classifier_free_guidance(one, zero, 0.0), zero)
  np.testing.assert_array_equal(
    classifier_free_guidance(one, zero, 7.0), 7 * one
  )
