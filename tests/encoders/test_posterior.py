"""The latents' Gaussian against `diffusers` and its own moments."""

import jax
import jax.numpy as jnp
import numpy as np
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

from ddit_jax.encoders.vae import Posterior


def test_latents_at_given_noise_equal_diffusers():
  random = np.random.default_rng(7)
  mean, logvar, noise = random.normal(size=(3, 2, 3, 5, 4)).astype("f4")
  moments = np.concatenate([mean, logvar], -1).transpose(0, 3, 1, 2)
  theirs = DiagonalGaussianDistribution(torch.from_numpy(moments))
  want = theirs.mean + theirs.std * torch.from_numpy(
    noise.transpose(0, 3, 1, 2)
  )
  posterior = Posterior(mean=jnp.asarray(mean), logvar=jnp.asarray(logvar))
  got = posterior.at(jnp.asarray(noise)).transpose(0, 3, 1, 2)
  np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)


def test_samples_have_the_posterior_s_moments():
  shape = (100, 20, 20, 2)
  mean = jnp.broadcast_to(jnp.array([3.0, -1.0]), shape)
  logvar = jnp.broadcast_to(jnp.log(jnp.array([4.0, 0.25])), shape)
  samples = Posterior(mean=mean, logvar=logvar).sample(jax.random.key(0))
  # 40,000 draws: standard errors 0.01 and 0.0025, half that of the spreads.
  np.testing.assert_allclose(samples.mean((0, 1, 2)), [3.0, -1.0], atol=0.04)
  np.testing.assert_allclose(samples.std((0, 1, 2)), [2.0, 0.5], atol=0.03)
