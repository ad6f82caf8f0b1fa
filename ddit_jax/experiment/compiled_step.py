"""The step of a run: lowered, compiled, timed and profiled."""

import dataclasses
from collections.abc import Callable, Hashable
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

from ddit_jax.batch import DualBatch
from ddit_jax.experiment.captioner import CaptionerModel
from ddit_jax.experiment.config import Config
from ddit_jax.experiment.model import DualModel
from ddit_jax.monitor.start_times import StartTimes
from ddit_jax.planning.compiler_options import compiler_options
from ddit_jax.post_training.rollouts import Rollouts
from ddit_jax.train.profile import ProfileWindow
from ddit_jax.train.state import TrainState
from ddit_jax.train.step import TrainStep
from ddit_jax.train.watchdog import Watchdog


def train_step(
  config: Config,
  model: DualModel | CaptionerModel,
  *,
  is_mask_embedding_trained: bool,
  has_task_norms: bool = False,
) -> TrainStep:
  """The step of a run's config, see `TrainStep`."""
  return TrainStep(
    model=model,
    loss=config.objective,
    optimizer=config.optimizer,
    train=config.train,
    seed=config.seed,
    is_mask_embedding_trained=is_mask_embedding_trained,
    has_task_norms=has_task_norms,
  )


def jitted(
  step: Callable[..., Any], shardings: TrainState
) -> jax.stages.Wrapped:
  """A step of (state, ...), which donates the state and keeps its shardings."""
  return jax.jit(step, donate_argnums=0, out_shardings=(shardings, None))


class CompiledStep:
  """A function of (number of the step, state, batch), which donates the state.

  A program is compiled at its first step. There is one for each shape of the
  batch, another for a frozen mask embedding, which has no backward pass through
  the text encoder, and another for steps that log each task's gradient norm,
  which run the tasks one after the other.

  Args:
    config: of the run.
    model: the network and the frozen parts around it.
    null_tokens: the empty caption, int32.
    shardings: of the state, without its frozen parameters.
    watchdog: learns that a program is being compiled.
    times: of the run's start.
    profile: which steps are traced.
    rollouts: of post-training: makes each batch of prompts a scored one, which
      its loss takes.
  """

  def __init__(
    self,
    config: Config,
    model: DualModel | CaptionerModel,
    null_tokens: Int[np.ndarray, " length"],
    shardings: TrainState,
    *,
    watchdog: Watchdog,
    times: StartTimes,
    profile: ProfileWindow,
    rollouts: Rollouts | None = None,
  ):
    self._config, self._model, self._shardings = config, model, shardings
    self._null_tokens, self._rollouts = null_tokens, rollouts
    self._watchdog, self._times, self._profile = watchdog, times, profile
    self._programs: dict[Hashable, jax.stages.Compiled] = {}

  def __call__(
    self, step: int, state: TrainState, batch: DualBatch
  ) -> tuple[TrainState, dict[str, Any]]:
    train = self._config.train
    # Of one task alone the norm is that of the whole gradient.
    has_norms = len(self._config.data.tasks_on()) > 1
    has_norms = has_norms and train.logs_task_norms(step)
    variant = train.trains_mask_embedding(step), has_norms
    kind = variant, *(leaf.shape for leaf in jax.tree.leaves(batch))
    is_new = kind not in self._programs
    inputs, scalars = (state, batch, self._null_tokens), {}
    if is_new:
      self._times.end_phase("data")
    if self._rollouts is not None:
      what = f"the draws and rewards of step {step}"
      self._watchdog.waits_for(what, is_slow=is_new)
      scored, scalars = self._rollouts(state, batch)
      inputs = state, scored
      self._watchdog.waits_for(f"step {step}")
    if is_new:
      if self._rollouts is not None:
        self._times.end_phase("rollout")
      self._watchdog.waits_for(f"the program of step {step}", is_slow=True)
      self._programs[kind] = self._compile(*variant, inputs)
    program = self._programs[kind]
    state, metrics = self._profile.run(step, lambda: program(*inputs))
    if is_new:
      jax.block_until_ready(metrics)
      self._times.end_phase("first step")
      self._times.log()
    return state, metrics | scalars

  def _compile(
    self, is_trained: bool, has_task_norms: bool, inputs: tuple
  ) -> jax.stages.Compiled:
    state, *_ = inputs
    step = train_step(
      self._config,
      self._model,
      is_mask_embedding_trained=is_trained,
      has_task_norms=has_task_norms,
    )
    function = step
    if self._rollouts is not None:
      function = dataclasses.replace(step, loss=self._rollouts.loss).update
    frozen = jax.tree.map(lambda array: array.sharding, state.frozen)
    shardings = self._shardings.replace(frozen=frozen)
    lowered = jitted(function, shardings).lower(*inputs)
    self._times.end_phase("lower")
    options = self._config.train.compiler_options
    kind = jax.devices()[0].device_kind
    compiled = lowered.compile(compiler_options=compiler_options(options, kind))
    self._times.end_phase("compile")
    return compiled
