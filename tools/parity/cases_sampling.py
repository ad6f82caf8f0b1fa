"""Cases f, g and i: images and texts by the samplers, and the unmodified SD3.

Each public function returns our side of every array of its case.
"""

import dataclasses
import functools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np

from ddit_jax.diffusion.flow_matching import NUM_TRAIN_TIMESTEPS, FlowMatching
from ddit_jax.diffusion.masked_diffusion import log_probabilities
from ddit_jax.models.embeddings import TIME_SCALE
from ddit_jax.sampling.image_sampler import (
  ImageSampling,
  Inputs,
  sample_latents,
)
from parity import release_text_sampler
from parity.cases_training import release_diffusion
from parity.checkpoints import Checkpoints, Loaded, Part
from parity.compare import Values
from parity.golden_set import (
  Case,
  GoldenSet,
  GoldenSetError,
  channels_first,
  channels_last,
)

_GRID = re.compile(r"(?:sigmas|timesteps|final_latents|image)_(\d+)")
_STEP = re.compile(r"latents_(\d+)_step(\d+)")


def text_to_image(
  golden: GoldenSet, case: Case, checkpoints: Checkpoints
) -> dict[str, Values]:
  """Case f: sampling grids, and guided Euler steps to an image."""
  ddit = checkpoints.get("ddit")
  sampling = ImageSampling(
    shift=golden.constant("scheduler_shift"),
    num_train_timesteps=_num_train_timesteps(ddit),
  )
  results = _training_grid(case)
  results["first_velocity"] = _first_velocity(case, ddit)
  sample = _sampler(case, ddit, guidance_scale=golden.constant("cfg"))
  for num_steps in _step_counts(case):
    sigmas = dataclasses.replace(
      sampling, num_inference_steps=num_steps
    ).sigmas()
    final = sample(sigmas)
    image = ddit["vae"].decode(final)
    results |= {
      f"sigmas_{num_steps}": sigmas,
      f"timesteps_{num_steps}": sigmas[:-1] * TIME_SCALE,
      f"final_latents_{num_steps}": channels_first(final),
      f"image_{num_steps}": channels_first(image),
    }
    results |= _states(case, sample, sigmas)
  return results


def _num_train_timesteps(ddit: Loaded) -> int:
  """Length of the training grid, from the scheduler's config."""
  folder = ddit.plain_folders.get("scheduler")
  if folder is None:
    raise GoldenSetError("the checkpoint has no scheduler folder")
  path = folder / "scheduler_config.json"
  try:
    return int(json.loads(path.read_bytes())["num_train_timesteps"])
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise GoldenSetError(
      f"{path} has no num_train_timesteps: {error!r}"
    ) from error


def _training_grid(case: Case) -> dict[str, Values]:
  """Both ends of the grid to which training rounds sigma."""
  num, path = NUM_TRAIN_TIMESTEPS, FlowMatching(sigma_grid="thousand")
  middles = (np.arange(num, dtype=np.float64) + 0.5) / num
  normals = np.log(middles / (1 - middles)).astype(np.float32)
  sigmas = np.asarray(path.sigmas_from_normals(jnp.asarray(normals)))
  results = {}
  if "train_timesteps_head" in case.entries:
    (length,) = case.entries["train_timesteps_head"].shape
    results["train_timesteps_head"] = sigmas[:length] * TIME_SCALE
  if "train_sigmas_tail" in case.entries:
    (length,) = case.entries["train_sigmas_tail"].shape
    results["train_sigmas_tail"] = sigmas[-length:]
  return results


def _first_velocity(case: Case, ddit: Loaded) -> np.ndarray:
  """The velocity at sigma 1 of the negative prompts, then of the prompts."""
  noise = channels_last(case["init_latents"])
  tokens = np.concatenate([case["negative_ids"], case["prompt_ids"]])
  latents = np.concatenate([noise, noise])
  sigma = jnp.ones(tokens.shape[0])
  return channels_first(ddit.predict(latents, tokens, sigma).velocity)


def _sampler(case: Case, ddit: Loaded, *, guidance_scale: float):
  """(sigmas, start=recorded noise) -> latents at the last sigma."""

  network, encode = ddit["network"], ddit["text_encoder"].apply

  @jax.jit
  def run(variables, start, condition, null_condition, sigmas):
    return sample_latents(
      functools.partial(network.module.apply, variables),
      Inputs(start, condition, null_condition),
      sampling=ImageSampling(guidance_scale=guidance_scale),
      sigmas=sigmas,
    )

  condition = encode(case["prompt_ids"])
  null_condition = encode(case["negative_ids"])[:1]

  def sample(sigmas, start=None):
    if start is None:
      start = channels_last(case["init_latents"])
    return run(network.variables, start, condition, null_condition, sigmas)

  return sample


def _states(case: Case, sample, sigmas: np.ndarray) -> dict[str, Values]:
  """Latents after the recorded steps, computed one step at a time."""
  num_steps = len(sigmas) - 1
  found = (_STEP.fullmatch(name) for name in case.outputs())
  wanted = [int(m[2]) for m in found if m and int(m[1]) == num_steps]
  results, latents = {}, None
  for step in range(1, max(wanted, default=0) + 1):
    latents = sample(sigmas[step - 1 : step + 1], latents)
    results[f"latents_{num_steps}_step{step}"] = channels_first(latents)
  return results


def _step_counts(case: Case) -> list[int]:
  found = (_GRID.fullmatch(name) for name in case.outputs())
  return sorted({int(match[1]) for match in found if match})


def text_sampling(
  golden: GoldenSet, case: Case, checkpoints: Checkpoints
) -> dict[str, Values]:
  """Case g: ancestral text sampling with recorded uniforms."""
  ddit = checkpoints.get("ddit")
  mask_probability = release_diffusion(golden).mask_probability
  results: dict[str, Values] = {}
  if "xt" in case.entries:
    results |= _one_step(case, ddit, mask_probability)
  for run in case.groups("prompt_ids"):
    final, states = _trajectory(case, run, ddit)
    results[f"{run}/final"] = final
    results[f"{run}/states"] = states
  return results


def _one_step(case: Case, ddit: Loaded, mask_probability) -> dict[str, Values]:
  state, t, s = (jnp.asarray(case[name]) for name in ("xt", "t", "s"))
  mask_id = ddit.mask_id
  log_p = log_probabilities(_logits(case, ddit, state), mask_id)
  is_masked = (state == mask_id)[..., None]
  visible = jax.nn.one_hot(state, log_p.shape[-1])
  # Visible tokens are copied (SUBS).
  p_x0 = jnp.where(is_masked, jnp.exp(log_p), visible)
  # "ddpm_cache" uses t and s as mask probabilities, "ddpm" the schedule of
  # training; both reveal with the same probability.
  chance = release_text_sampler.reveal_probability(t, s)
  log_q = release_text_sampler.log_posterior(
    jnp.log(p_x0), chance, mask_id=mask_id
  )
  posterior = jnp.exp(log_q)
  sampled = release_text_sampler.draw(
    state, log_p, jnp.asarray(case["uniform"]), chance, mask_id=mask_id
  )
  return {
    "p_x0": p_x0,
    "x_next_cache": sampled,
    "x_next_ddpm": sampled,
    "q_xs_cache": t * posterior,
    "q_xs_cache_normalised": jnp.where(is_masked, posterior, visible),
    "q_xs_ddpm": mask_probability(t) * posterior,
    "argmax_noise_removal": release_text_sampler.without_noise(
      state, log_p, mask_id=mask_id
    ),
  }


def _trajectory(case: Case, run: str, ddit: Loaded):
  """(final tokens, states after each step)."""
  prompt_mask = case[f"{run}/prompt_mask"] == 1
  return release_text_sampler.states_of(
    functools.partial(_logits, case, ddit),
    jnp.where(prompt_mask, case[f"{run}/prompt_ids"], ddit.mask_id),
    jnp.asarray(case[f"{run}/uniform"]),
    mask_id=ddit.mask_id,
  )


def _logits(case: Case, ddit: Loaded, state: jax.Array) -> jax.Array:
  latents = channels_last(case["image_latents"])
  return ddit.predict(latents, state, jnp.zeros(state.shape[0])).logits


_FINAL = re.compile(r"sample/final_(\d+)")


def sd3_base(
  golden: GoldenSet, case: Case, checkpoints: Checkpoints
) -> dict[str, Values]:
  """Case i: the unmodified SD3, and the D-DiT initialised from it."""
  results: dict[str, Values] = {}
  for run in case.groups("latents"):
    results |= _velocities(case, run, checkpoints)
  for name in case.outputs():
    if match := _FINAL.fullmatch(name):
      results[name] = _samples(
        case,
        _networks(checkpoints, "sd3"),
        ImageSampling(
          num_inference_steps=int(match[1]),
          guidance_scale=golden.constant("cfg"),
          shift=golden.constant("scheduler_shift"),
        ),
      )
  return results


def _networks(checkpoints: Checkpoints, target: str) -> dict[str, Part]:
  return {n: loaded["network"] for n, loaded in checkpoints.sd3(target).items()}


def _velocities(
  case: Case, run: str, checkpoints: Checkpoints
) -> dict[str, Values]:
  latents = channels_last(case[f"{run}/latents"])
  context, pooled = case[f"{run}/context"], case[f"{run}/pooled"]
  sigma = case[f"{run}/timestep"] / np.float32(TIME_SCALE)

  def velocity(part, *more):
    return channels_first(part.apply(latents, context, sigma, *more).velocity)

  sd3 = _networks(checkpoints, "sd3")
  results = {
    f"{run}/velocity": {name: velocity(sd3[name], pooled) for name in sd3}
  }
  if f"{run}/velocity_no_pooled" in case.entries:
    ddit = _networks(checkpoints, "ddit")
    results[f"{run}/velocity_no_pooled"] = {
      name: velocity(sd3[name]) for name in sd3
    } | {f"D-DiT from {name}": velocity(ddit[name]) for name in ddit}
  return results


def _samples(
  case: Case,
  networks: dict[str, Part],
  sampling: ImageSampling,
) -> dict[str, np.ndarray]:
  """Guided Euler steps; row 0 of the conditions is the negative one.

  The condition that the sampler passes on is the row index of each image.
  """
  context = jnp.asarray(case["sample/context"])
  pooled = jnp.asarray(case["sample/pooled"])
  noise = channels_last(case["sample/init_latents"])
  rows = jnp.arange(1, 1 + noise.shape[0])[:, None]
  # All formats give the same shapes.
  module = next(iter(networks.values())).module

  @jax.jit
  def run(variables):
    def predict(latents, rows, sigma):
      condition = context[rows[:, 0]], sigma, pooled[rows[:, 0]]
      return module.apply(variables, latents, *condition)

    inputs = Inputs(noise, rows, jnp.zeros((1, 1), jnp.int32))
    return sample_latents(predict, inputs, sampling=sampling)

  return {
    name: channels_first(run(part.variables)) for name, part in networks.items()
  }
