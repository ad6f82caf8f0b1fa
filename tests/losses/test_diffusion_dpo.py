"""Diffusion-DPO against its formula, in NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest

from ddit_jax.diffusion.flow_matching import FlowMatching
from ddit_jax.losses.diffusion_dpo import DiffusionDpo, PreferredImages
from ddit_jax.losses.flow_matching import noisy_images

SHAPE = (3, 2, 2, 3)


def noised(clean, noise):
  return noisy_images(
    jnp.asarray(clean),
    jnp.zeros((3, 1), jnp.int32),
    sigma=jnp.array([0.2, 0.5, 0.9]),
    noise=jnp.asarray(noise),
    flow_matching=FlowMatching(),
  )


def test_the_loss_is_that_of_the_formula():
  draws = np.random.default_rng(0).normal(size=(7, *SHAPE)).astype("f4")
  good, bad, noise, new_good, new_bad, old_good, old_bad = draws
  pairs = PreferredImages(
    chosen=noised(good, noise),
    rejected=noised(bad, noise),
    chosen_reference=jnp.asarray(old_good),
    rejected_reference=jnp.asarray(old_bad),
  )
  losses = DiffusionDpo(beta=0.7).losses(
    jnp.asarray(new_good), jnp.asarray(new_bad), pairs
  )
  wanted, distance = [], []
  for i in range(3):

    def error(velocity, clean, i=i):
      return np.mean((velocity[i] - (noise[i] - clean[i])) ** 2)

    inside = error(new_good, good) - error(old_good, good)
    inside -= error(new_bad, bad) - error(old_bad, bad)
    wanted.append(np.log(1 + np.exp(0.7 * inside)))
    distance.append(np.mean((new_good[i] - old_good[i]) ** 2))
  np.testing.assert_allclose(losses["image"], np.mean(wanted), rtol=1e-5)
  np.testing.assert_allclose(losses["image_kl"], np.mean(distance), rtol=1e-5)
  start = DiffusionDpo().losses(
    pairs.chosen_reference, pairs.rejected_reference, pairs
  )
  np.testing.assert_allclose(start["image"], np.log(2), rtol=1e-6)
  assert start["image_kl"] == 0


def test_bad_settings_are_refused():
  with pytest.raises(ValueError, match="beta must be positive"):
    DiffusionDpo(beta=0.0)
