"""Case i: the untouched SD3, and the D-DiT that starts from it."""

import re

import jax
import jax.numpy as jnp
import numpy as np

from ddit_jax.models.embeddings import TIME_SCALE
from ddit_jax.sampling.image_sampler import ImageSampling, sample_latents
from parity.axes import channels_first, channels_last
from parity.checkpoints import Checkpoints, Part
from parity.comparison import Readings
from parity.golden_set import Case, GoldenSet

_FINAL = re.compile(r"sample/final_(\d+)")


def outputs(
  golden: GoldenSet, case: Case, checkpoints: Checkpoints
) -> dict[str, Readings]:
  """Our side of every array of the case."""
  results: dict[str, Readings] = {}
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
) -> dict[str, Readings]:
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

  The condition that the sampler hands on is the row that each image takes.
  """
  context = jnp.asarray(case["sample/context"])
  pooled = jnp.asarray(case["sample/pooled"])
  noise = channels_last(case["sample/init_latents"])
  rows = jnp.arange(1, 1 + noise.shape[0])[:, None]
  # All layouts give the same shapes.
  module = next(iter(networks.values())).module

  @jax.jit
  def run(variables):
    def predict(latents, rows, sigma):
      condition = context[rows[:, 0]], sigma, pooled[rows[:, 0]]
      return module.apply(variables, latents, *condition)

    return sample_latents(
      predict,
      noise,
      rows,
      jnp.zeros(1, jnp.int32),
      sigmas=sampling.sigmas(),
      guidance_scale=sampling.guidance_scale,
    )

  return {
    name: channels_first(run(part.variables)) for name, part in networks.items()
  }
