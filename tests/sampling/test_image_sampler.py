"""Euler's method against closed forms and a plain loop."""

import itertools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddit_jax.sampling.image_sampler import (
  Edit,
  ImageSampling,
  Inputs,
  sample_latents,
)

TOKENS = jnp.asarray([[1, 2], [3, 4], [5, 6]])
NULL = jnp.asarray([0, 0])


def noise() -> jax.Array:
  return jax.random.normal(jax.random.key(0), (3, 4, 4, 2))


def velocity(latents, tokens, sigma):
  """A made-up field that depends on all three inputs."""
  text = tokens.sum(-1).astype(jnp.float32)[:, None, None, None]
  time = sigma[:, None, None, None]
  return types.SimpleNamespace(velocity=0.3 * latents + text * time)


def draw(predict, start, *, sigmas, null=NULL, guidance_scale=1.0, **options):
  return sample_latents(
    predict,
    Inputs(start, TOKENS, null[None]),
    sampling=ImageSampling(guidance_scale=guidance_scale, **options),
    sigmas=sigmas,
  )


def test_a_straight_field_is_integrated_exactly():
  """With velocity noise - clean, any number of steps ends at clean."""
  clean = jnp.full((3, 4, 4, 2), 0.25)
  start = noise()

  def predict(latents, tokens, sigma):
    return types.SimpleNamespace(velocity=start - clean)

  for steps in (1, 7):
    sigmas = ImageSampling(num_inference_steps=steps).sigmas()
    got = draw(predict, start, sigmas=sigmas)
    # Error measured: 1.2e-7.
    np.testing.assert_allclose(got, clean, atol=1e-6)


@pytest.mark.parametrize("guidance", [1.0, 0.0, 5.0])
def test_equals_a_plain_loop_of_euler_steps(guidance):
  sigmas = ImageSampling(num_inference_steps=5, shift=1.0).sigmas()
  got = draw(velocity, noise(), sigmas=sigmas, guidance_scale=guidance)
  want = np.asarray(noise(), np.float64)
  text = np.asarray(TOKENS).sum(-1)[:, None, None, None]
  for now, after in itertools.pairwise(sigmas):
    with_text, without = 0.3 * want + text * now, 0.3 * want
    want = want + (after - now) * (without + guidance * (with_text - without))
  # Error measured: 2.5e-6 at guidance 5, where values reach 29.
  np.testing.assert_allclose(got, want, atol=2e-5)


def test_the_null_condition_only_matters_with_guidance():
  def draw_with(null, guidance):
    return draw(
      velocity,
      noise(),
      null=null,
      sigmas=np.float32([1, 0.5, 0]),
      guidance_scale=guidance,
    )

  np.testing.assert_array_equal(draw_with(NULL, 1.0), draw_with(NULL + 9, 1.0))
  assert not np.allclose(draw_with(NULL, 2.0), draw_with(NULL + 9, 2.0))


@pytest.mark.parametrize("num_steps", [4, 28])
def test_sd3s_sampling_grid_ends_at_its_published_last_time(num_steps):
  grid = ImageSampling(num_inference_steps=num_steps, shift=3.0).sigmas()
  assert grid.shape == (num_steps + 1,)
  assert grid[0] == 1 and grid[-1] == 0
  assert abs(grid[-2] - 0.0089286) < 1e-7
  assert (np.diff(grid) < 0).all()


def test_shift_one_is_uniform():
  np.testing.assert_allclose(
    ImageSampling(num_inference_steps=4, shift=1.0).sigmas(),
    [1, 0.75, 0.5, 0.25, 0],
  )


@pytest.mark.parametrize("values", [{"num_inference_steps": 0}, {"shift": 0.0}])
def test_bad_settings_are_refused(values):
  (name,) = values
  with pytest.raises(ValueError, match=f"^{name} must be positive, got 0"):
    ImageSampling(**values)


def curve(latents, tokens, sigma):
  """dx / dsigma = x: from sigma 1 to 0, x shrinks by e."""
  return types.SimpleNamespace(velocity=latents)


def errors(solver):
  """Largest distances to the exact solution with 16 and with 32 steps."""
  found = []
  for steps in (16, 32):
    sigmas = np.linspace(1, 0, steps + 1)
    got = draw(curve, noise(), sigmas=sigmas, solver=solver)
    found.append(float(np.abs(got - noise() / np.e).max()))
  return found


def test_errors_fall_with_the_order_of_the_solver():
  euler, heun, multistep = map(errors, ("euler", "heun", "dpmpp_2m"))
  # Measured 1.02 and 2.05.
  assert abs(np.log2(euler[0] / euler[1]) - 1) < 0.2
  assert abs(np.log2(heun[0] / heun[1]) - 2) < 0.2
  # Its first and last step are of first order: measured 51.
  assert euler[1] > 30 * multistep[1]


def edited(strength, mask=None, **options):
  clean = jnp.full((3, 4, 4, 2), 0.25)
  if mask is not None:
    mask = jnp.broadcast_to(mask, (3, 4, 4, 1))
  inputs = Inputs(noise(), TOKENS, NULL[None], Edit(clean, mask))
  sampling = ImageSampling(strength=strength, guidance_scale=1.0, **options)
  return sample_latents(velocity, inputs, sampling=sampling)


def test_an_image_goes_through_the_last_steps_alone():
  sampling = ImageSampling(num_inference_steps=4, strength=0.6)
  times = sampling.sigmas()
  # 1.6 steps are left out, rounded down.
  np.testing.assert_array_equal(sampling.edit_sigmas(), times[1:])
  want = times[1] * noise() + (1 - times[1]) * 0.25
  text = TOKENS.sum(-1)[:, None, None, None]
  for now, after in itertools.pairwise(times[1:]):
    want = want + (after - now) * (0.3 * want + text * now)
  got = edited(0.6, num_inference_steps=4)
  # Measured 5e-7.
  np.testing.assert_allclose(got, want, atol=5e-6)
  whole = edited(1.0, num_inference_steps=4)
  plain = draw(velocity, noise(), sigmas=None, num_inference_steps=4)
  np.testing.assert_array_equal(whole, plain)


@pytest.mark.parametrize("solver", ["euler", "heun", "dpmpp_2m"])
def test_what_a_mask_keeps_stays_exactly(solver):
  mask = np.zeros((4, 4, 1), np.float32)
  mask[1:3] = 1
  got = edited(0.8, jnp.asarray(mask), num_inference_steps=4, solver=solver)
  kept = np.broadcast_to(mask == 0, got.shape)
  np.testing.assert_array_equal(np.asarray(got)[kept], 0.25)
  assert (np.asarray(got)[~kept] != 0.25).all()


def test_each_row_may_have_a_negative_prompt_of_its_own():
  nulls = jnp.asarray([[0, 0], [5, 5], [9, 0]])
  sampling = ImageSampling(num_inference_steps=3)
  together = sample_latents(
    velocity, Inputs(noise(), TOKENS, nulls), sampling=sampling
  )
  for i in range(3):
    inputs = Inputs(noise(), TOKENS, nulls[i : i + 1])
    alone = sample_latents(velocity, inputs, sampling=sampling)
    np.testing.assert_allclose(together[i], alone[i], rtol=1e-6)


@pytest.mark.parametrize(
  ("values", "message"),
  [
    ({"guidance_start": 0.5, "guidance_stop": 0.2}, "guidance_start and guida"),
    ({"guidance_rescale": 1.5}, "guidance_rescale must be in 0 to 1"),
    ({"strength": 0.0}, r"strength must be in \(0, 1\], got 0.0"),
    (
      {"skip_guidance_layers": (7,), "guidance_scale": 1.0},
      "skip_guidance_layers is .* without guidance",
    ),
    ({"reused_steps": (0,)}, "reused_steps has step 0"),
    ({"reused_steps": (28,)}, "reused_steps has step 28"),
    (
      {"reused_steps": (3,), "guidance_stop": 0.5},
      "reused_steps is .* guidance changes during",
    ),
  ],
)
def test_settings_that_do_not_fit_together_are_refused(values, message):
  with pytest.raises(ValueError, match=message):
    ImageSampling(**values)


@pytest.mark.parametrize("field", ["guider", "solver"])
def test_unknown_names_are_refused(field, unchecked_shapes):
  with pytest.raises(ValueError, match=f"^{field} must be one of"):
    ImageSampling(**{field: "ddim"})


def test_blocks_that_a_network_lacks_are_refused():
  sampling = ImageSampling(skip_guidance_layers=(7, 8, 24))
  sampling.check_depth(25)
  with pytest.raises(ValueError, match=r"has block 24, but .* are 0 to 23"):
    sampling.check_depth(24)
