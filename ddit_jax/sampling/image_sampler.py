"""Text to image: the velocity ODE from noise to latents (section 3.4).

`flow_solvers` moves the latents and `guidance` makes one velocity of the
network's; this module plans the network's calls and runs them in one scan.
"""

import dataclasses
import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, Shaped

from ddit_jax.sampling.flow_solvers import SOLVERS, Calls, Latents, State, row
from ddit_jax.sampling.guidance import Branch, Guidance
from ddit_jax.sharding.rules import constrain

# Far above any use; a mistyped number would run for years.
MAX_STEPS = 10_000


class Kind(NamedTuple):
  """What one call of the network computes.

  Attributes:
    branches: its inputs; () for none, where the velocity is zero.
    is_reused: True adds the blocks' last residual instead of running them.
  """

  branches: tuple[Branch, ...]
  is_reused: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageSampling(Guidance):
  """Config of the image sampler, with the names of diffusers.

  Attributes:
    num_inference_steps: steps of the solver.
    solver: "euler"; "euler_stochastic", with new noise at each step; "heun",
      of second order with two network calls a step; "dpmpp_2m", of second order
      with one. All use the same times.
    shift: SD3's resolution shift of the grid of times; 1 leaves it uniform.
    num_train_timesteps: steps of the training grid, whose smallest sigma the
      shifted grid ends with.
    strength: share of the steps that a given image goes through, in (0, 1]; 1
      ignores it, except where a mask keeps it.
    reused_steps: steps, from 0, that do not run the network's blocks but add
      their last residual again: an approximation, see `step_cache`.
  """

  num_inference_steps: int = 28
  solver: Literal["euler", "euler_stochastic", "heun", "dpmpp_2m"] = "euler"
  shift: float = 3.0
  num_train_timesteps: int = 1000
  strength: float = 0.6
  reused_steps: tuple[int, ...] = ()

  def __post_init__(self):
    super().__post_init__()
    for name in ("num_inference_steps", "shift", "num_train_timesteps"):
      if getattr(self, name) <= 0:
        raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
    if self.num_inference_steps > MAX_STEPS:
      raise ValueError(
        f"num_inference_steps must be at most {MAX_STEPS}, got "
        f"{self.num_inference_steps}"
      )
    if not 0 < self.strength <= 1:
      raise ValueError(f"strength must be in (0, 1], got {self.strength}")
    self._check_reused()

  def _check_reused(self) -> None:
    num_steps = self.num_inference_steps
    kinds = {self.branches(i, num_steps) for i in range(num_steps)} - {()}
    if self.reused_steps and len(kinds) > 1:
      raise ValueError(
        f"reused_steps is {self.reused_steps}, but guidance changes during the "
        "steps: leave out its start and stop and skip_guidance_layers"
      )
    for step in self.reused_steps:
      if not 1 <= step < num_steps or not self.branches(step - 1, num_steps):
        raise ValueError(
          f"reused_steps has step {step}: there must be a step of the network "
          f"before it, and the last is {num_steps - 1}"
        )

  def sigmas(self) -> Float[np.ndarray, " grid"]:
    """Descending times 1, ..., 0 of the solver, float32.

    With shift 1 the grid is uniform. Otherwise it is SD3's: a linear grid
    from 1 to the shifted smallest training sigma, shifted again, then 0; so
    the last non-zero time does not depend on the number of steps.
    """
    num_steps, num_train = self.num_inference_steps, self.num_train_timesteps
    if self.shift == 1:
      return np.linspace(1, 0, num_steps + 1, dtype=np.float32)
    smallest = self._shifted(1 / num_train)
    grid = np.linspace(num_train, smallest * num_train, num_steps)
    return np.append(self._shifted(grid / num_train), 0.0).astype(np.float32)

  def edit_sigmas(self) -> Float[np.ndarray, " grid"]:
    """The last times of `sigmas`, from which a given image is changed.

    Raises:
      ValueError: `reused_steps` were chosen for all times.
    """
    if self.reused_steps:
      raise ValueError(
        f"reused_steps is {self.reused_steps}, but a given image does not go "
        "through all steps: leave them out"
      )
    num_steps = self.num_inference_steps
    first = int(num_steps - min(num_steps * self.strength, num_steps))
    return self.sigmas()[first:]

  def kinds(self, calls: Calls) -> tuple[Kind, ...]:
    """What each call computes."""
    num_steps = int(calls.step[-1]) + 1
    return tuple(
      Kind(self.branches(int(step), num_steps), int(step) in self.reused_steps)
      for step in calls.step
    )

  def _shifted(self, sigma):
    return self.shift * sigma / (1 + (self.shift - 1) * sigma)


class Edit(NamedTuple):
  """An image to change.

  Attributes:
    latents: of the image, clean.
    mask: 1 where it is drawn anew, 0 where it is kept; None changes all.
  """

  latents: Latents
  mask: Float[Array, "batch height width 1"] | None = None


class Inputs(NamedTuple):
  """What stays the same during the steps of a batch.

  Attributes:
    noise: standard normal.
    condition: the prompts, as token ids or a text encoder's features.
    null_condition: the empty or negative prompt, one for all rows or one each.
    edit: the images to change; None draws from noise alone.
    keys: of each row's noise in stochastic solvers.
  """

  noise: Latents
  condition: Shaped[Array, "batch length *features"]
  null_condition: Shaped[Array, "nulls length *features"]
  edit: Edit | None = None
  keys: Key[Array, " batch"] | None = None


class PartialImages(NamedTuple):
  """What changes from call to call.

  Attributes:
    state: of the solver.
    residual: of the network's blocks, if steps reuse it.
  """

  state: State
  residual: Any = ()


def sample_latents(
  predict,
  inputs: Inputs,
  *,
  sampling: ImageSampling,
  sigmas: Float[Array | np.ndarray, " grid"] | None = None,
) -> Latents:
  """Integrates from noise at sigma 1 to latents at sigma 0.

  The network sees all branches of an example (without the prompt and with it)
  in one batch.

  Args:
    predict: (latents, condition, sigma) -> object with `.velocity`. With
      skip-layer guidance and reused steps it also takes and gives what
      `MMDiT` does.
    inputs: noise and prompts.
    sampling: the sampler's config.
    sigmas: descending times, the last 0; those of `sampling` if None.

  Returns:
    float32 latents.
  """
  if sigmas is None:
    is_edit = inputs.edit is not None
    sigmas = sampling.edit_sigmas() if is_edit else sampling.sigmas()
  calls = SOLVERS[sampling.solver].calls(sigmas)
  kinds = sampling.kinds(calls)
  progress = begin(predict, inputs, calls, kinds, sampling=sampling)
  advance = functools.partial(run_calls, predict, sampling=sampling)
  return advance(progress, inputs, calls, kinds).state.latents


def begin(
  predict,
  inputs: Inputs,
  calls: Calls,
  kinds: tuple[Kind, ...],
  *,
  sampling: ImageSampling,
  keeps_residual: bool | None = None,
) -> PartialImages:
  """The progress before the first call; arguments as in `run_calls`.

  `keeps_residual` None keeps it if steps reuse it.
  """
  latents = inputs.noise.astype(jnp.float32)
  if inputs.edit is not None:
    latents = _noised(inputs.edit.latents, latents, calls.sigma[0])
  state = SOLVERS[sampling.solver].begin(latents)
  if keeps_residual is None:
    keeps_residual = bool(sampling.reused_steps)
  if not keeps_residual:
    return PartialImages(state)
  kind = next(kind for kind in kinds if kind.branches)
  ask = _asked(predict, inputs, kind, sampling, keeps_residual=True)
  shape = jax.eval_shape(ask, latents, jnp.float32(1.0), None)[1]
  return PartialImages(state, jnp.zeros(shape.shape, shape.dtype))


def run_calls(
  predict,
  progress: PartialImages,
  inputs: Inputs,
  calls: Calls,
  kinds: tuple[Kind, ...],
  *,
  sampling: ImageSampling,
) -> PartialImages:
  """Some consecutive calls of the network, in one scan.

  Args:
    predict: see `sample_latents`.
    progress: before the first of them.
    inputs: noise and prompts.
    calls: rows of the solver's table.
    kinds: what each of them computes.
    sampling: the sampler's config.
  """
  solver = SOLVERS[sampling.solver]
  different = list(dict.fromkeys(kinds))
  keeps_residual = isinstance(progress.residual, jax.Array)
  ask = [
    _asked(predict, inputs, kind, sampling, keeps_residual=keeps_residual)
    for kind in different
  ]
  which = np.array([different.index(kind) for kind in kinds])

  def one_call(progress, call_and_kind):
    call, kind = call_and_kind
    state, residual = progress
    if len(ask) == 1:
      velocity, residual = ask[0](state.latents, call.sigma, residual)
    else:
      asked = state.latents, call.sigma, residual
      velocity, residual = jax.lax.switch(kind, ask, *asked)
    draw = functools.partial(_step_noise, inputs, call.step)
    state = solver.step(state, velocity, call, draw)
    state = state._replace(latents=_kept(state.latents, inputs, call))
    return PartialImages(state, residual), None

  calls = jax.tree.map(jnp.asarray, calls)
  if len(which) == 1:
    return one_call(progress, (row(calls, 0), which[0]))[0]
  return jax.lax.scan(one_call, progress, (calls, which))[0]


def _asked(
  predict,
  inputs: Inputs,
  kind: Kind,
  sampling: ImageSampling,
  *,
  keeps_residual: bool,
):
  """(latents, sigma, residual) -> the guided velocity and the new residual."""
  branches, num_rows = kind.branches, inputs.noise.shape[0]
  if not branches:
    return lambda latents, sigma, residual: (jnp.zeros_like(latents), residual)
  condition = inputs.condition
  null = jnp.broadcast_to(inputs.null_condition, condition.shape)
  condition = _interleave(
    [null if branch == "null" else condition for branch in branches]
  )
  options = {}
  if "skip" in branches:
    is_skipping = jnp.array([branch == "skip" for branch in branches])
    options["is_skipping"] = jnp.tile(is_skipping, num_rows)
    options["skip_layers"] = sampling.skip_guidance_layers

  def ask(latents, sigma, residual):
    joined = _interleave([latents] * len(branches))
    time = jnp.full((joined.shape[0],), sigma)
    reused = {"image_residual": residual} if kind.is_reused else {}
    found = predict(joined, condition, time, **options, **reused)
    velocity = found.velocity.astype(jnp.float32)
    parts = velocity.reshape(num_rows, len(branches), *velocity.shape[1:])
    velocities = {name: parts[:, i] for i, name in enumerate(branches)}
    if keeps_residual:
      residual = found.image_residual
    return sampling.combined(velocities), residual

  return ask


def _step_noise(inputs: Inputs, step) -> Latents:
  """New noise of a step, each row's from its own key."""

  def draw(key):
    key = jax.random.fold_in(key, step)
    return jax.random.normal(key, inputs.noise.shape[1:])

  return jax.vmap(draw)(inputs.keys)


def _noised(clean: Latents, noise: Latents, sigma) -> Latents:
  """The point at sigma on the path from clean latents to noise (eq. 1)."""
  return sigma * noise + (1 - sigma) * clean


def _kept(latents: Latents, inputs: Inputs, call: Calls) -> Latents:
  """The latents with the given image where the mask keeps it."""
  if inputs.edit is None or inputs.edit.mask is None:
    return latents
  clean, mask = inputs.edit
  known = _noised(clean, inputs.noise, call.next_sigma)
  return (1 - mask) * known + mask * latents


def _interleave(
  parts: list[Shaped[Array, "batch *rest"]],
) -> Shaped[Array, "batches *rest"]:
  """Alternates rows of all, so that a sharded batch stays on its devices."""
  first, *others = parts
  if not others:
    return first
  stacked = jnp.stack(parts, axis=1)
  joined = stacked.reshape(len(parts) * first.shape[0], *first.shape[1:])
  return constrain(joined, "batch", *(None,) * (first.ndim - 1))


def conditioned(
  model,
  variables,
  texts,
  null_texts,
  noise: Latents,
  *,
  edit: Edit | None = None,
  keys: Key[Array, " batch"] | None = None,
) -> Inputs:
  """Inputs of the sampler for token ids.

  Args:
    model: with `condition` and `predict`, see `experiment.model.DualModel`.
    variables: variables of the model's parts.
    texts: ids of the prompts, as the model takes them.
    null_texts: ids of the empty or negative prompt, one row for all prompts or
      one each.
    noise: standard normal.
    edit: images to change.
    keys: of each row's noise in stochastic solvers.
  """
  # Once per prompt, not once per step.
  condition = model.condition(variables, texts)
  null_condition = model.condition(variables, null_texts)
  return Inputs(noise, condition, null_condition, edit, keys)


def generate_latents(
  model,
  variables,
  texts,
  null_texts,
  noise: Latents,
  *,
  sampling: ImageSampling,
  **options,
) -> Latents:
  """Samples latents for token ids; arguments as in `conditioned`.

  Raises:
    ValueError: a stochastic solver without keys.
  """
  if sampling.solver == "euler_stochastic" and options.get("keys") is None:
    raise ValueError("the solver euler_stochastic needs keys")
  inputs = conditioned(model, variables, texts, null_texts, noise, **options)
  predict = functools.partial(model.predict, variables)
  return sample_latents(predict, inputs, sampling=sampling)
