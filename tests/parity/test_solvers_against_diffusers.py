"""Solvers and guidance against diffusers' schedulers and guiders.

A fixed velocity in NumPy's arithmetic stands for the network on both sides.
"""

import types

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import guiders

from ddit_jax.sampling.flow_solvers import SOLVERS
from ddit_jax.sampling.image_sampler import (
  ImageSampling,
  Inputs,
  sample_latents,
)
from tests.encoders.torch_weights import relative_distance

SHAPE = (2, 4, 6, 3)
NOISE = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
MIX = np.random.default_rng(1).normal(size=(3, 3)).astype(np.float32)
NULL, TEXT, SKIP = 0.0, 1.0, 2.0
KEYS = jax.random.split(jax.random.key(7), SHAPE[0])


def field(tanh, x, sigma, number):
  """Depends on the latents, the time and the prompt's number."""
  return tanh(x @ MIX.astype(x.dtype) + number) - sigma * x


def theirs(x, sigma, number):
  x, sigma = x.numpy(), np.float32(sigma)
  return torch.from_numpy(field(np.tanh, x, sigma, np.float32(number)))


def ours(x, condition, sigma, is_skipping=None, skip_layers=()):
  number = condition[:, 0]
  if is_skipping is not None:
    assert skip_layers == (0, 2)
    number = jnp.where(is_skipping, SKIP, number)
  column = sigma[:, None, None, None], number[:, None, None, None]
  return types.SimpleNamespace(velocity=field(jnp.tanh, x, *column))


def sampled(sigmas=None, **options):
  prompts = jnp.full((SHAPE[0], 1), TEXT), jnp.full((1, 1), NULL)
  inputs = Inputs(jnp.asarray(NOISE), *prompts, keys=KEYS)
  sampling = ImageSampling(**options)
  draw = jax.jit(
    lambda: sample_latents(ours, inputs, sampling=sampling, sigmas=sigmas)
  )
  return np.asarray(draw())


def scheduled(scheduler, num_steps, velocity):
  """Latents after all of a scheduler's steps."""
  x = torch.from_numpy(NOISE)
  for index, time in enumerate(scheduler.timesteps):
    sigma = float(scheduler.sigmas[index])
    v = velocity(x, sigma, index, num_steps)
    x = scheduler.step(v, time, x, return_dict=False)[0]
  return x.numpy()


def by_prompt(x, sigma, index, num_steps):
  return theirs(x, sigma, TEXT)


def euler(num_steps, **options):
  made = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, **options)
  made.set_timesteps(num_steps)
  return made


def heun(num_steps):
  made = diffusers.FlowMatchHeunDiscreteScheduler(shift=3.0)
  made.set_timesteps(num_steps)
  return made


def dpm_solver(num_steps):
  made = diffusers.DPMSolverMultistepScheduler(
    use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0
  )
  made.set_timesteps(num_steps)
  return made


def report(name, got, want, bound):
  """Prints and checks the largest difference of a case."""
  error = relative_distance(got, want)
  print(f"{name}: {error:.1e}")
  assert error < bound, name


@pytest.mark.parametrize("num_steps", [1, 5, 28])
def test_euler_and_heun_use_the_same_grid_and_steps(num_steps):
  options = {"num_inference_steps": num_steps, "guidance_scale": 1.0}
  for name, scheduler in (
    ("euler", euler(num_steps)),
    ("heun", heun(num_steps)),
  ):
    want = scheduled(scheduler, num_steps, by_prompt)
    got = sampled(solver=name, **options)
    # Measured 7e-7.
    report(f"{name} {num_steps}", got, want, 7e-6)


@pytest.mark.parametrize("num_steps", [2, 5, 20])
def test_dpm_solver_on_its_own_grid_and_on_sd3s(num_steps):
  scheduler = dpm_solver(num_steps)
  options = {"solver": "dpmpp_2m", "guidance_scale": 1.0}
  got = sampled(sigmas=scheduler.sigmas.numpy(), **options)
  want = scheduled(scheduler, num_steps, by_prompt)
  # Measured 3e-7.
  report(f"dpmpp_2m {num_steps}", got, want, 3e-6)
  options["num_inference_steps"] = num_steps
  scheduler = dpm_solver(num_steps)
  # The first step of a grid that begins at 1 has no finite logarithm.
  scheduler.sigmas = torch.from_numpy(ImageSampling(**options).sigmas())
  want = scheduled(scheduler, num_steps, by_prompt)
  report(f"dpmpp_2m {num_steps} on SD3's grid", sampled(**options), want, 3e-6)


def step_noise(step):
  def draw(key):
    return jax.random.normal(jax.random.fold_in(key, step), SHAPE[1:])

  return jax.vmap(draw)(KEYS)


def test_stochastic_euler_with_the_same_noise(monkeypatch):
  num_steps = 6
  draws = iter(
    torch.from_numpy(np.array(step_noise(step))) for step in range(num_steps)
  )
  monkeypatch.setattr(
    "diffusers.schedulers.scheduling_flow_match_euler_discrete.randn_tensor",
    lambda *_, **__: next(draws),
  )
  scheduler = euler(num_steps, stochastic_sampling=True)
  want = scheduled(scheduler, num_steps, by_prompt)
  got = sampled(
    solver="euler_stochastic", num_inference_steps=num_steps, guidance_scale=1.0
  )
  # Measured 9e-8.
  report("euler_stochastic", got, want, 9e-7)


CASES = {
  "cfg": (guiders.ClassifierFreeGuidance, {}, {}),
  "cfg, interval": (
    guiders.ClassifierFreeGuidance,
    {"start": 0.2, "stop": 0.65},
    {"guidance_start": 0.2, "guidance_stop": 0.65},
  ),
  "cfg, rescaled": (
    guiders.ClassifierFreeGuidance,
    {"guidance_rescale": 0.7},
    {"guidance_rescale": 0.7},
  ),
  "cfg_zero_star": (
    guiders.ClassifierFreeZeroStarGuidance,
    {"zero_init_steps": 2},
    {"guider": "cfg_zero_star", "zero_init_steps": 2},
  ),
  "apg": (
    guiders.AdaptiveProjectedGuidance,
    {"adaptive_projected_guidance_rescale": 3.0, "eta": 0.3},
    {"guider": "apg", "apg_norm_threshold": 3.0, "apg_eta": 0.3},
  ),
  "skip-layer": (
    guiders.SkipLayerGuidance,
    {
      "skip_layer_guidance_layers": [0, 2],
      "skip_layer_guidance_start": 0.2,
      "skip_layer_guidance_stop": 0.8,
    },
    {
      "skip_guidance_layers": (0, 2),
      "skip_layer_guidance_start": 0.2,
      "skip_layer_guidance_stop": 0.8,
    },
  ),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("solver", ["euler", "dpmpp_2m"])
def test_guidance_equals_the_guiders(name, solver):
  make, options, settings = CASES[name]
  num_steps, scale = 10, 4.0
  guider = make(guidance_scale=scale, **options)

  def velocity(x, sigma, index, num_steps):
    guider.set_state(index, num_steps, torch.tensor(sigma))
    names = {1: [TEXT], 2: [TEXT, NULL], 3: [TEXT, NULL, SKIP]}
    predictions = [theirs(x, sigma, n) for n in names[guider.num_conditions]]
    return guider.forward(*predictions).pred

  scheduler = euler(num_steps)
  if solver == "dpmpp_2m":
    grid = scheduler.sigmas
    scheduler = dpm_solver(num_steps)
    scheduler.sigmas = grid
  want = scheduled(scheduler, num_steps, velocity)
  got = sampled(
    num_inference_steps=num_steps,
    guidance_scale=scale,
    solver=solver,
    **settings,
  )
  # Measured 5e-7.
  report(f"{name}, {solver}", got, want, 5e-6)


def test_every_solver_has_a_scheduler_above():
  assert set(SOLVERS) == {"euler", "euler_stochastic", "heun", "dpmpp_2m"}
