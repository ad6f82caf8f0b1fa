"""From a state to the last step: the loop, its hooks, and turning back."""

import contextlib
from typing import Any

import jax

from ddit_jax.data.device_feed import DeviceFeed
from ddit_jax.experiment.incidents import Incidents, TooManySkipped
from ddit_jax.experiment.step_log import StepLog
from ddit_jax.experiment.validation import Validator
from ddit_jax.input_error import InputError
from ddit_jax.monitor.metric_writer import MetricWriter
from ddit_jax.monitor.progress import ProgressBar
from ddit_jax.monitor.silent import Silent
from ddit_jax.train.guards import LossGuard, LossSpike
from ddit_jax.train.loop import Hook, Progress, run_loop
from ddit_jax.train.state import TrainState
from ddit_jax.train.stop_signal import StopSignal


class TrainingRun:
  """The running part of a `TrainingJob`.

  Args:
    job: its parts.
    stop: asks for an orderly end.
  """

  def __init__(self, job, stop: StopSignal):
    self._job, self._stop = job, stop
    self._train = job.settings.train
    self._incidents = Incidents(
      job.folder.path,
      job.stream.record_ids,
      max_skipped_in_row=self._train.max_skipped_in_row,
    )
    # One over all rollbacks, so that it remembers what losses were like.
    self._guard = LossGuard(
      self._incidents.add_skipped, spike_factor=self._train.spike_factor
    )

  def to_end(self, state: TrainState) -> bool:
    """Trains to the last step (True) or to a stop signal (False).

    Raises:
      InputError: the losses went wrong too often.
    """
    job, start = self._job, self._job.start or 0
    job.folder.write_config(job.settings)
    is_first = jax.process_index() == 0
    with contextlib.ExitStack() as stack:
      writer, bar = Silent(), Silent()
      if is_first:
        writer = stack.enter_context(MetricWriter(job.folder.path))
        bar = stack.enter_context(
          ProgressBar(total=self._train.num_steps, initial=start)
        )
      num_rollbacks = 0
      while True:
        writer.truncate_after(start)
        outcome = self._until_spike(start, state, writer, bar)
        # All that the loop held is free by now: there is room for another.
        del state
        job.store.wait()
        if not isinstance(outcome, LossSpike):
          return outcome
        self._check_may_turn_back(outcome, num_rollbacks)
        start, state = self._rolled_back(outcome)
        num_rollbacks += 1

  def _until_spike(
    self, start: int, state: TrainState, writer: Any, bar: Any
  ) -> LossSpike | bool:
    """Trains on; the spike at which it stopped, or what `to_end` returns."""
    job, last = self._job, None

    def watch(progress: Progress) -> None:
      nonlocal last
      last = progress
      self._guard(progress)

    def save(progress: Progress) -> None:
      self._guard.catch_up()
      job.save(progress)

    with contextlib.closing(DeviceFeed(job.stream, job.mesh)) as feed:
      hooks = [
        Hook(1, watch),
        Hook(self._train.log_every, StepLog(job, writer, bar, feed, start)),
        Hook(
          self._train.validate_every,
          Validator(job, writer),
          is_needed_at_stop=False,
        ),
        Hook(self._train.checkpoint_every, save),
      ]
      try:
        run_loop(
          job.step_function(state),
          state,
          feed,
          start=start,
          num_steps=self._train.num_steps,
          hooks=hooks,
          is_stop_asked=self._stop.is_asked,
        )
      except TooManySkipped:
        # What was learnt since the last checkpoint is sound.
        job.save(last)
        job.store.wait()
        raise
      except LossSpike as spike:
        # Its traceback would keep the whole state.
        return spike.with_traceback(None)
    is_at_end = last is None or last.step == self._train.num_steps
    return is_at_end and not self._stop.was_asked

  def _check_may_turn_back(self, spike: LossSpike, num_rollbacks: int) -> None:
    job = self._job
    step = job.store.latest_step()
    if step is None:
      raise InputError(
        f"{spike}, and there is no checkpoint yet to go back to: start in "
        "another --workdir with a lower optimizer.learning_rate or "
        "train.checkpoint_every"
      )
    if num_rollbacks == self._train.max_rollbacks:
      raise InputError(
        f"{spike}; this is one more than train.max_rollbacks = "
        f"{self._train.max_rollbacks}: go on in another --workdir with "
        f"init_from={job.store.folder}/{step} and a lower "
        "optimizer.learning_rate"
      )

  def _rolled_back(self, spike: LossSpike) -> tuple[int, TrainState]:
    """(step, state) of the newest checkpoint; the data goes on behind it."""
    job = self._job
    step = job.store.latest_step()
    self._incidents.add_rollback(spike, step)
    self._guard.forget_unread()
    job.go_on_reading(spike.data_position)
    return step, job.restored_state(step).replace(frozen=job.frozen())
