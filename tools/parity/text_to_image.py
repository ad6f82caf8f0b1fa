"""Case f: the sampling grid, and text to image by guided Euler steps."""

import dataclasses
import functools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np

from ddit_jax.diffusion.flow_matching import NUM_TRAIN_TIMESTEPS, FlowMatching
from ddit_jax.models.embeddings import TIME_SCALE
from ddit_jax.sampling.image_sampler import ImageSampling, sample_latents
from parity.axes import channels_first, channels_last
from parity.checkpoints import Checkpoints, Loaded
from parity.comparison import Readings
from parity.golden_set import Case, GoldenSet, GoldenSetError

_GRID = re.compile(r"(?:sigmas|timesteps|final_latents|image)_(\d+)")
_STEP = re.compile(r"latents_(\d+)_step(\d+)")


def outputs(
  golden: GoldenSet, case: Case, checkpoints: Checkpoints
) -> dict[str, Readings]:
  """Our side of every array of the case."""
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
  """The length of the training grid, from the scheduler's config."""
  folder = ddit.plain_folders.get("scheduler")
  if folder is None:
    raise GoldenSetError("the checkpoint has no scheduler folder")
  path = folder / "scheduler_config.json"
  try:
    return int(json.loads(path.read_bytes())["num_train_timesteps"])
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise GoldenSetError(
      f"{path} does not tell num_train_timesteps: {error!r}"
    ) from error


def _training_grid(case: Case) -> dict[str, Readings]:
  """Both ends of the grid that training's sigmas are rounded to."""
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
  """At sigma 1, of the negative prompts, then of the prompts."""
  noise = channels_last(case["init_latents"])
  tokens = np.concatenate([case["negative_ids"], case["prompt_ids"]])
  latents = np.concatenate([noise, noise])
  sigma = jnp.ones(tokens.shape[0])
  return channels_first(ddit.predict(latents, tokens, sigma).velocity)


def _sampler(case: Case, ddit: Loaded, *, guidance_scale: float):
  """(sigmas, start or the recorded noise) -> latents at the last sigma."""

  network, encode = ddit["network"], ddit["text_encoder"].apply

  @jax.jit
  def run(variables, start, condition, null_condition, sigmas):
    return sample_latents(
      functools.partial(network.module.apply, variables),
      start,
      condition,
      null_condition,
      sigmas=sigmas,
      guidance_scale=guidance_scale,
    )

  condition = encode(case["prompt_ids"])
  null_condition = encode(case["negative_ids"])[0]

  def sample(sigmas, start=None):
    if start is None:
      start = channels_last(case["init_latents"])
    return run(network.variables, start, condition, null_condition, sigmas)

  return sample


def _states(case: Case, sample, sigmas: np.ndarray) -> dict[str, Readings]:
  """Latents after the recorded steps, which are taken one by one."""
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
