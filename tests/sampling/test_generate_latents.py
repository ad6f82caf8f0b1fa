"""Euler's steps by hand, with a model whose velocity is known."""

import itertools
import types

import jax.numpy as jnp
import numpy as np
import pytest

from ddit_jax.sampling.image_sampler import ImageSampling, generate_latents


class LinearModel:
  """Velocity = latents times a text's number, plus sigma."""

  num_conditions = 0

  def condition(self, variables, texts):
    self.num_conditions += 1
    return variables["scale"] * texts

  def predict(self, variables, latents, condition, sigma):
    rate = condition[:, :1, None, None] * latents
    velocity = rate + sigma[:, None, None, None]
    return types.SimpleNamespace(velocity=velocity)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_the_steps_equal_a_loop(guidance):
  noise = np.random.default_rng(0).normal(size=(2, 3, 1, 1)).astype("f4")
  texts, null = np.array([[2.0], [-1.0]]), np.array([[0.5]])
  model = LinearModel()
  sampling = ImageSampling(num_inference_steps=3, guidance_scale=guidance)
  got = generate_latents(
    model,
    {"scale": 0.5},
    jnp.asarray(texts, jnp.float32),
    jnp.asarray(null, jnp.float32),
    jnp.asarray(noise),
    sampling=sampling,
  )
  want = noise.astype(np.float64)
  for sigma, after in itertools.pairwise(sampling.sigmas()):
    for row in range(2):
      x = want[row]
      with_text = 0.5 * texts[row, 0] * x + sigma
      without = 0.5 * null[0, 0] * x + sigma
      velocity = without + guidance * (with_text - without)
      want[row] = x + (after - sigma) * velocity
  # Measured 2e-7.
  np.testing.assert_allclose(got, want, atol=2e-6)
  # Texts are encoded once, not once a step.
  assert model.num_conditions == 2
