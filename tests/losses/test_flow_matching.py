"""The image loss against plain numpy."""

import jax
import jax.numpy as jnp
import numpy as np

from ddit_jax.diffusion.flow_matching import FlowMatching
from ddit_jax.losses import flow_matching

NULL = jnp.asarray([7, 7, 7])


def corrupted(condition_dropout=0.0, batch=6, **settings):
  latents = jax.random.normal(jax.random.key(1), (batch, 4, 4, 2))
  tokens = jnp.zeros((batch, 3), jnp.int32)
  examples = flow_matching.corrupt_images(
    latents,
    tokens,
    jax.random.key(0),
    jnp.int32(3),
    flow_matching=FlowMatching(**settings),
    null_text=NULL,
    condition_dropout=condition_dropout,
  )
  return latents, examples


def test_examples_lie_on_the_path_of_their_own_noise():
  latents, examples = corrupted()
  sigma = np.asarray(examples.sigma)[:, None, None, None]
  noise = np.asarray(examples.velocity) + np.asarray(latents)
  want = (1 - sigma) * np.asarray(latents) + sigma * noise
  # Error measured: 2.4e-7.
  np.testing.assert_allclose(examples.latents, want, atol=2e-6)


def test_weights_average_over_the_global_batch():
  _, plain = corrupted()
  np.testing.assert_allclose(plain.weight, 1 / 6, rtol=1e-6)
  _, squared = corrupted(loss_weighting="sigma_squared")
  want = np.square(np.asarray(squared.sigma)) / 6
  np.testing.assert_allclose(squared.weight, want, rtol=1e-6)


def test_dropped_captions_are_the_null_caption_at_the_given_rate():
  _, examples = corrupted(condition_dropout=0.25, batch=4000)
  is_null = (np.asarray(examples.text) == 7).all(-1)
  is_kept = (np.asarray(examples.text) == 0).all(-1)
  assert (is_null | is_kept).all()
  # Four standard deviations of the share.
  assert abs(is_null.mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 4000)


def test_errors_are_means_in_float32():
  target = jnp.zeros((2, 3, 3, 1), jnp.bfloat16)
  velocity = jnp.full((2, 3, 3, 1), 3.0, jnp.bfloat16)
  errors = flow_matching.squared_errors(velocity, target)
  assert errors.dtype == jnp.float32
  np.testing.assert_array_equal(errors, [9.0, 9.0])
