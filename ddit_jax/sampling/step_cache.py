"""Steps that reuse the blocks' residual: which, chosen from a calibration.

MagCache (arXiv:2506.09045): from step to step, what the blocks add to the
image tokens changes mostly in magnitude, by ratios that hardly depend on the
prompt. So they are measured once, and the schedule that follows from them is
fixed before sampling.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ddit_jax.sampling.flow_solvers import SOLVERS
from ddit_jax.sampling.image_sampler import (
  ImageSampling,
  Inputs,
  begin,
  run_calls,
)

# Keeps a quotient finite, as in diffusers.
_TINY = 1e-8


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepCache:
  """The rule of MagCache, with the names and defaults of diffusers.

  Attributes:
    threshold: largest error that reused steps in a row may add up to; more
      saves more and drifts further.
    max_skip_steps: longest row of reused steps.
    retention_ratio: share of the first steps that are never reused.
  """

  threshold: float = 0.06
  max_skip_steps: int = 3
  retention_ratio: float = 0.2

  def __post_init__(self):
    if self.threshold <= 0:
      raise ValueError(f"threshold must be positive, got {self.threshold}")
    if self.max_skip_steps < 1:
      raise ValueError(
        f"max_skip_steps must be positive, got {self.max_skip_steps}"
      )
    if not 0 <= self.retention_ratio < 1:
      raise ValueError(
        f"retention_ratio must be in [0, 1), got {self.retention_ratio}"
      )

  def reused_steps(self, ratios: Sequence[float]) -> tuple[int, ...]:
    """The steps to reuse, given every step's ratio of magnitudes."""
    first = max(1, int(self.retention_ratio * len(ratios) + 0.5))
    reused: list[int] = []
    ratio, error, length = 1.0, 0.0, 0
    for step in range(first, len(ratios)):
      ratio *= ratios[step]
      error += abs(1 - ratio)
      length += 1
      if error <= self.threshold and length <= self.max_skip_steps:
        reused.append(step)
      else:
        ratio, error, length = 1.0, 0.0, 0
    return tuple(reused)


def check_can_calibrate(sampling: ImageSampling) -> None:
  """Raises ValueError unless every step asks the network the same once."""
  num_steps = sampling.num_inference_steps
  kinds = {sampling.branches(step, num_steps) for step in range(num_steps)}
  calls = SOLVERS[sampling.solver].calls(sampling.sigmas())
  is_alike = len(kinds) == 1 and () not in kinds
  if not is_alike or len(calls.step) > num_steps or sampling.reused_steps:
    raise ValueError(
      "a step cache is calibrated on steps of one call each and the same "
      "guidance: choose another solver than heun, guider cfg or apg, and leave "
      "out guidance_start, guidance_stop, skip_guidance_layers, reused_steps"
    )


def magnitude_ratios(
  predict, inputs: Inputs, *, sampling: ImageSampling
) -> Float[Array, " steps"]:
  """Mean ratio of the residual's norm at each step to that before; first 1.

  Arguments as in `sample_latents`.

  Raises:
    ValueError: see `check_can_calibrate`.
  """
  check_can_calibrate(sampling)
  calls = SOLVERS[sampling.solver].calls(sampling.sigmas())
  kinds = sampling.kinds(calls)
  start = begin(
    predict, inputs, calls, kinds, sampling=sampling, keeps_residual=True
  )

  def step(progress, call):
    call = jax.tree.map(lambda column: column[None], call)
    after = run_calls(
      predict, progress, inputs, call, kinds[:1], sampling=sampling
    )
    old, new = (
      jnp.linalg.norm(p.residual.astype(jnp.float32), axis=-1)
      for p in (progress, after)
    )
    return after, jnp.mean(new / (old + _TINY))

  calls = jax.tree.map(jnp.asarray, calls)
  ratios = jax.lax.scan(step, start, calls)[1]
  return ratios.at[0].set(1.0)
