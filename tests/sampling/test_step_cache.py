"""Which steps are reused, and what reusing them computes."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddit_jax.sampling.image_sampler import (
  ImageSampling,
  Inputs,
  sample_latents,
)
from ddit_jax.sampling.step_cache import StepCache, magnitude_ratios

NOISE = jax.random.normal(jax.random.key(0), (2, 4, 4, 2))
INPUTS = Inputs(NOISE, jnp.ones((2, 3)), jnp.zeros((1, 3)))


def predict(latents, condition, sigma, image_residual=None):
  """A network whose blocks add sigma ** 2 times the prompt's sum."""
  tokens = latents.reshape(len(latents), 16, 2)
  if image_residual is None:
    size = sigma**2 * (1 + condition.sum(axis=1))
    image_residual = jnp.ones_like(tokens) * size[:, None, None]
  velocity = (0.1 * tokens + image_residual).reshape(latents.shape)
  return types.SimpleNamespace(velocity=velocity, image_residual=image_residual)


def test_the_rule_by_hand():
  # Kept: 0 and 1. Then errors 0.02 and 0.02 + 0.04 reach the threshold, the
  # third step of a row is computed, and 0.9 is too far at once.
  ratios = [1.0, 0.5, 0.98, 0.98, 0.98, 1.0, 1.0, 1.0, 0.9]
  cache = StepCache(threshold=0.061, max_skip_steps=2, retention_ratio=0.2)
  assert cache.reused_steps(ratios) == (2, 3, 5, 6)
  assert StepCache(retention_ratio=0.0).reused_steps([1.0] * 4) == (1, 2, 3)


def test_ratios_are_those_of_the_residuals():
  sampling = ImageSampling(num_inference_steps=5)
  times = sampling.sigmas()[:-1].astype(np.float64)
  got = jax.jit(lambda: magnitude_ratios(predict, INPUTS, sampling=sampling))()
  want = np.append(1, times[1:] ** 2 / times[:-1] ** 2)
  # Measured 3e-7.
  np.testing.assert_allclose(got, want, rtol=3e-6)


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_reused_steps_add_the_last_residual(guidance_scale):
  options = {"num_inference_steps": 4, "guidance_scale": guidance_scale}
  sampling = ImageSampling(reused_steps=(1, 3), **options)
  got = sample_latents(predict, INPUTS, sampling=sampling)
  times = sampling.sigmas().astype(np.float64)
  want = np.asarray(NOISE, np.float64)
  for step in range(4):
    asked = times[step - step % 2]
    # The prompt's sum is 3, the null prompt's 0.
    both = asked**2 * (1 + guidance_scale * 3)
    want = want + (times[step + 1] - times[step]) * (0.1 * want + both)
  # Measured 4e-7.
  np.testing.assert_allclose(got, want, rtol=4e-6, atol=4e-6)


@pytest.mark.parametrize(
  "settings",
  [
    {"solver": "heun"},
    {"guider": "cfg_zero_star"},
    {"guidance_stop": 0.5},
    {"reused_steps": (1,)},
    # No step at all calls the network.
    {"guider": "cfg_zero_star", "zero_init_steps": 4},
  ],
)
def test_steps_that_differ_are_not_calibrated(settings):
  sampling = ImageSampling(num_inference_steps=4, **settings)
  with pytest.raises(ValueError, match="steps of one call each and the same"):
    magnitude_ratios(predict, INPUTS, sampling=sampling)


@pytest.mark.parametrize(
  ("values", "name"),
  [
    ({"threshold": 0.0}, "threshold"),
    ({"max_skip_steps": 0}, "max_skip_steps"),
    ({"retention_ratio": 1.0}, "retention_ratio"),
  ],
)
def test_bad_settings_are_refused(values, name):
  with pytest.raises(ValueError, match=f"^{name} must be"):
    StepCache(**values)
