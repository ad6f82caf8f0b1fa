"""The loop that feeds the step and calls hooks, and its stop signal."""

import dataclasses
import os
import signal
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
from jax.experimental import multihost_utils

from ddit_jax.errors import check_bounds, check_choices
from ddit_jax.planning.compiler_options import compiler_options
from ddit_jax.train.profile import parse_window
from ddit_jax.train.state import MAX_TRAIN_STEPS, TrainState
from ddit_jax.train.watchdog import NO_WATCHDOG, Watchdog


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
  """Config of the training loop.

  Attributes:
    num_steps: total number of updates.
    num_microbatches: parts of a batch whose gradients are added up.
    weight_gathering: when weights that are split along `mesh.fsdp` are
      gathered: "per_use" in each pass of each block, so that one block's are
      held at a time; "once" a step, for both tasks, all micro-batches and the
      backward pass, which holds all of them in the dtype of the computation;
      "chip" once on devices of 64 GiB and more, but not under adapters.
    task_norms_every: steps between those that compute the gradient norm of
      each task; it and `log_every` must be multiples of one another. 0 never
      does. Such a step runs the tasks one after the other and holds both
      gradients at once.
    mask_embedding_steps: steps for which the mask token's own embedding is
      trained, with a backward pass through T5; it is frozen afterwards. -1
      means all.
    max_skipped_in_row: batches in a row that may be skipped because a loss or
      gradient is not finite; one more stops the run. They never change the
      weights.
    spike_factor: a total loss above this many times its recent median rolls
      the run back to its last checkpoint and skips the batch; 0 never does.
    max_rollbacks: of one start; one more stops the run.
    log_every: steps between lines of scalars.
    validate_every: steps between validation losses of the EMA parameters,
      which also decide which checkpoint is best.
    sample_grid_size: captions and images to sample from at every
      validation, as grids of images; 0 shows none.
    checkpoint_every: steps between checkpoints.
    keep_last: checkpoints kept besides the best.
    step_timeout_seconds: how long the run may wait for a step or its batch, and
      six times as long for compiling, validation and checkpoints, before it
      ends with the stacks of its threads; 0 waits for ever. Opening sources
      and reading sizes of images may take any time.
    peer_timeout_seconds: after which silence of a process its job ends.
    profile_steps: first and last step whose trace is written to "profile" in
      the workdir, e.g. "10,14"; "" for none.
    compiler_options: XLA options of the step: "chip" takes those of the
      chip, with their reasons in `ddit_jax/planning/compiler_options.py`,
      "none" takes none, and NAME=VALUE sets one; several are joined by commas.
      A run's config.json holds what was used, also for `weight_gathering`.
  """

  num_steps: int = 1000
  num_microbatches: int = 1
  weight_gathering: Literal["chip", "per_use", "once"] = "chip"
  task_norms_every: int = 0
  mask_embedding_steps: int = -1
  max_skipped_in_row: int = 10
  spike_factor: float = 0.0
  max_rollbacks: int = 3
  log_every: int = 20
  validate_every: int = 500
  sample_grid_size: int = 8
  checkpoint_every: int = 500
  keep_last: int = 2
  step_timeout_seconds: float = 600.0
  peer_timeout_seconds: float = 40.0
  profile_steps: str = ""
  compiler_options: str = "chip"

  def __post_init__(self):
    check_choices(self)
    names = (
      "num_steps",
      "num_microbatches",
      "log_every",
      "validate_every",
      "checkpoint_every",
      "keep_last",
    )
    check_bounds(self, **dict.fromkeys(names, MAX_TRAIN_STEPS))
    compiler_options(self.compiler_options, device_kind="")
    if self.mask_embedding_steps < -1:
      raise ValueError(
        "mask_embedding_steps must be -1 (all) or a number of steps, got "
        f"{self.mask_embedding_steps}"
      )
    for name in (
      "max_skipped_in_row",
      "max_rollbacks",
      "sample_grid_size",
      "task_norms_every",
    ):
      if getattr(self, name) < 0:
        raise ValueError(f"{name} is negative: {getattr(self, name)}")
    every, log_every = self.task_norms_every, self.log_every
    if every and every % log_every and log_every % every:
      raise ValueError(
        f"task_norms_every = {every} and log_every = {log_every}: one must be "
        "a multiple of the other, or norms would not be logged"
      )
    if self.spike_factor != 0 and self.spike_factor <= 1:
      raise ValueError(
        f"spike_factor must be 0 (off) or above 1: {self.spike_factor}"
      )
    if self.step_timeout_seconds < 0:
      raise ValueError(
        "step_timeout_seconds must be 0 (off) or positive, got "
        f"{self.step_timeout_seconds}"
      )
    if self.peer_timeout_seconds < 3:
      raise ValueError(
        "peer_timeout_seconds must be at least 3, since processes are heard of "
        f"once a second, got {self.peer_timeout_seconds}"
      )
    parse_window(self.profile_steps)

  def trains_mask_embedding(self, step: int) -> bool:
    """Whether the mask token's own embedding is trained in a step."""
    return self.mask_embedding_steps == -1 or step <= self.mask_embedding_steps

  def logs_task_norms(self, step: int) -> bool:
    """Whether the gradient norm of each task is logged at a step."""
    return self.task_norms_every > 0 and step % self.task_norms_every == 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Progress:
  """The input of a hook after a step.

  Attributes:
    step: steps done.
    state: after the step. Its buffers are donated to the next step, so a hook
      must not keep it.
    metrics: arrays that may still be computed; reading one waits for the step.
    data_position: after this step's batch.
    data_wait_seconds: how long the loop has waited for data so far.
    is_last: True if no step follows.
    is_early_stop: True if that is because a stop was requested.
  """

  step: int
  state: TrainState
  metrics: dict[str, Any]
  data_position: dict[str, Any]
  data_wait_seconds: float
  is_last: bool
  is_early_stop: bool = False


@dataclasses.dataclass(frozen=True)
class Hook:
  """An action every so many steps, and after the last one.

  Attributes:
    every: steps between calls.
    act: takes the progress.
    is_needed_at_stop: False skips the extra call when a stop was
      requested, because the machine may disappear within seconds.
    name: of what it does.
    is_slow: True if it may take longer than a step.
  """

  every: int
  act: Callable[[Progress], None]
  is_needed_at_stop: bool = True
  name: str = "a hook"
  is_slow: bool = False

  def is_due(self, progress: Progress) -> bool:
    if progress.step % self.every == 0:
      return True
    return progress.is_last and (
      self.is_needed_at_stop or not progress.is_early_stop
    )


# (number of the step, state, batch) -> (state, metrics)
StepFunction = Callable[[int, TrainState, Any], tuple[TrainState, dict]]


def run_loop(
  step_function: StepFunction,
  state: TrainState,
  feed,
  *,
  start: int,
  num_steps: int,
  hooks: Sequence[Hook],
  is_stop_requested: Callable[[int], bool],
  watchdog: Watchdog = NO_WATCHDOG,
) -> TrainState:
  """Runs steps `start` + 1 to `num_steps`, or until a stop is requested.

  Args:
    step_function: the step, which may donate the state.
    state: after `start` steps.
    feed: iterator of (batch, data position after it).
    start: steps already done.
    num_steps: steps in all.
    hooks: called in this order when due.
    is_stop_requested: step -> True to make this step the last.
    watchdog: learns what the loop waits for.
  """
  wait_seconds = 0.0
  for step in range(start + 1, num_steps + 1):
    begin = time.monotonic()
    is_first = step == start + 1
    watchdog.waits_for(f"the batch of step {step}", is_slow=is_first)
    batch, position = next(feed)
    wait_seconds += time.monotonic() - begin
    watchdog.waits_for(f"step {step}")
    state, metrics = step_function(step, state, batch)
    is_end = step == num_steps
    is_early_stop = not is_end and is_stop_requested(step)
    progress = Progress(
      step=step,
      state=state,
      metrics=metrics,
      data_position=position,
      data_wait_seconds=wait_seconds,
      is_last=is_end or is_early_stop,
      is_early_stop=is_early_stop,
    )
    for hook in hooks:
      if hook.is_due(progress):
        what = f"{hook.name} after step {step}"
        watchdog.waits_for(what, is_slow=hook.is_slow)
        hook.act(progress)
    if progress.is_last:
      break
  return state


class StopSignal:
  """A context in which SIGTERM and SIGINT request a clean stop.

  A second SIGINT interrupts at once. With several processes JAX's own
  preemption notice is used: all agree on the step at which they stop, whichever
  of them was signalled.

  Args:
    steps_before: of earlier stages in this process. The steps passed to JAX's
      preemption notice must increase.

  Attributes:
    was_requested: True once a stop was requested.
  """

  def __init__(self, *, steps_before: int = 0):
    self._steps_before = steps_before
    self.was_requested = self._was_signalled = False

  def __enter__(self) -> "StopSignal":
    self.was_requested = self._was_signalled = False
    self._is_alone = jax.process_count() == 1
    # With several processes SIGTERM is JAX's preemption notice.
    numbers = (signal.SIGINT, signal.SIGTERM)[: 1 + self._is_alone]
    self._old = {n: signal.signal(n, self._request) for n in numbers}
    return self

  def __exit__(self, *_: object) -> None:
    for number, handler in self._old.items():
      signal.signal(number, handler)

  def is_requested(self, step: int) -> bool:
    """True if the run should save and stop after this step."""
    if not self._is_alone:
      number = self._steps_before + step
      self.was_requested |= multihost_utils.reached_preemption_sync_point(
        number
      )
    return self.was_requested

  def _request(self, number, frame) -> None:
    del frame
    if self._was_signalled and number == signal.SIGINT:
      raise KeyboardInterrupt
    self._was_signalled = True
    if self._is_alone:
      self.was_requested = True
    else:
      os.kill(os.getpid(), signal.SIGTERM)
