"""Hooks of the training loop: the loss guard and the log of scalars."""

import collections
import json
import logging
import math
import pathlib
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax
from tqdm import tqdm

from ddit_jax.errors import InputError
from ddit_jax.losses.time_buckets import without_empty
from ddit_jax.monitor.device_stats import memory_scalars, speed_scalars
from ddit_jax.monitor.metric_writer import MetricWriter
from ddit_jax.planning.chips import peak_flops
from ddit_jax.train.loop import Progress

_log = logging.getLogger(__name__)

INCIDENTS_FILE = "incidents.jsonl"
# A step's values are read once this many more steps are dispatched, so that
# reading them never blocks the devices.
_LAG = 2
# A spike is measured against the median of the last _WINDOW total losses, once
# there are _MIN_HISTORY of them.
_WINDOW, _MIN_HISTORY = 100, 20
# Scalar -> its label in the progress bar.
_SHOWN = {"loss/total": "loss", "loss/image": "image", "loss/text": "text"}


class LossSpike(Exception):
  """A loss far above its recent median.

  Attributes:
    step: step with this loss.
    data_position: position after its batch.
  """

  def __init__(self, step: int, loss: float, median: float, data_position):
    super().__init__(
      f"the loss of step {step} is {loss:.6g}, its recent median {median:.6g}"
    )
    self.step, self.data_position = step, data_position


class TooManySkipped(InputError):
  """Too many consecutive batches had a non-finite loss or gradient."""


class LossGuard:
  """Checks every step's losses, a few steps later.

  Batches that the step skipped and rollbacks go to `incidents.jsonl`, each
  with its records; process 0 writes the file.

  Args:
    folder: the workdir.
    record_ids: data position after a batch -> its records by task.
    max_skipped_in_row: more skipped batches in a row stop the run.
    spike_factor: how many times the recent median a total loss may be; 0 sets
      no limit.
    max_rollbacks: one more stops the run.
  """

  def __init__(
    self,
    folder: pathlib.Path,
    record_ids: Callable[[Mapping], Mapping],
    *,
    max_skipped_in_row: int,
    spike_factor: float,
    max_rollbacks: int,
  ):
    self._path, self._record_ids = folder / INCIDENTS_FILE, record_ids
    self._max_in_row = max_skipped_in_row
    self._spike_factor, self._max_rollbacks = spike_factor, max_rollbacks
    self._num_rollbacks = 0
    self._unread: collections.deque = collections.deque()
    self._recent: collections.deque = collections.deque(maxlen=_WINDOW)

  def __call__(self, progress: Progress) -> None:
    """Reads the losses of an earlier step.

    Raises:
      LossSpike: its loss is far above the recent median.
      TooManySkipped: too many batches in a row were skipped.
    """
    metrics = {
      name: value
      for name, value in progress.metrics.items()
      if name.startswith(("loss/", "grad_norm", "num_skipped_in_row"))
    }
    self._unread.append((progress.step, metrics, progress.data_position))
    while len(self._unread) > (0 if progress.is_last else _LAG):
      self._read_one()

  def catch_up(self) -> None:
    """Reads all steps so far, e.g. before a checkpoint; raises the same."""
    while self._unread:
      self._read_one()

  def roll_back(self, spike: LossSpike, to_step: int | None) -> None:
    """Records a rollback and drops the steps that it undoes.

    Args:
      spike: its cause.
      to_step: the newest checkpoint's step, or None if there is none.

    Raises:
      InputError: there is no checkpoint, or there were too many rollbacks.
    """
    if to_step is None:
      raise InputError(
        f"{spike}, and there is no checkpoint yet to roll back to: start in "
        "another --workdir with a lower optimizer.learning_rate or "
        "train.checkpoint_every"
      )
    if self._num_rollbacks == self._max_rollbacks:
      raise InputError(
        f"{spike}; this is one more than train.max_rollbacks = "
        f"{self._max_rollbacks}: continue in another --workdir with init_from="
        f"{self._path.parent}/checkpoints/{to_step} and a lower "
        "optimizer.learning_rate"
      )
    self._num_rollbacks += 1
    self._unread.clear()
    self._append(
      "rollback",
      spike.data_position,
      step=spike.step,
      to_step=to_step,
      cause=str(spike),
    )
    _log.warning(
      "%s: rolling back to step %d and skipping that batch", spike, to_step
    )

  def _read_one(self) -> None:
    step, metrics, position = self._unread.popleft()
    losses = {name: float(value) for name, value in metrics.items()}
    num_in_row = int(losses.pop("num_skipped_in_row"))
    if num_in_row:
      self._note_skipped(step, losses, num_in_row, position)
      return
    loss = losses["loss/total"]
    if self._is_spike(loss):
      raise LossSpike(step, loss, statistics.median(self._recent), position)
    self._recent.append(loss)

  def _is_spike(self, loss: float) -> bool:
    if not self._spike_factor or len(self._recent) < _MIN_HISTORY:
      return False
    limit = self._spike_factor * statistics.median(self._recent)
    return math.isfinite(limit) and loss > limit

  def _note_skipped(self, step, losses, num_in_row, position) -> None:
    """Records a skipped batch; raises TooManySkipped above the limit."""
    self._append(
      "skipped_batch",
      position,
      step=step,
      # NaN is not valid JSON.
      losses={name: repr(value) for name, value in losses.items()},
    )
    _log.warning(
      "step %d: a loss or gradient is not finite, so its batch was skipped; "
      "its records are in %s",
      step,
      self._path,
    )
    if num_in_row > self._max_in_row:
      raise TooManySkipped(
        f"{num_in_row} batches in a row up to step {step} gave no finite loss "
        "or gradient and were skipped, train.max_skipped_in_row is "
        f"{self._max_in_row}: look at {self._path}; the checkpoints are "
        "intact: fix the data, or continue in another --workdir with init_from "
        "and a lower optimizer.learning_rate"
      )

  def _append(self, event: str, data_position: Mapping, **fields: Any) -> None:
    if jax.process_index() != 0:
      return
    fields["records"] = self._record_ids(data_position)
    line = json.dumps({"event": event, "time": time.time(), **fields})
    try:
      with open(self._path, "a") as file:
        file.write(line + "\n")
    except OSError as error:
      # The run's own trouble must not stop it before its next checkpoint.
      reason = error.strerror
      _log.warning("%s cannot be written (%s): %s", self._path, reason, line)


class StepLog:
  """Writes a step's scalars and updates the progress bar.

  Args:
    writer: receives the scalars.
    bar: shows the losses.
    schedule: number of updates -> learning rate.
    images_per_step: of the global batch, both tasks.
    tokens_per_step: likewise.
    step_flops: step -> model FLOPs by part, see `speed_scalars`; {} if they
      are not known.
    num_devices: devices of the whole job.
    reader_counts: statistics of reading the data, as scalars.
  """

  def __init__(
    self,
    writer: MetricWriter,
    bar: tqdm,
    *,
    schedule: optax.Schedule,
    images_per_step: int,
    tokens_per_step: int,
    step_flops: Callable[[int], Mapping[str, float]],
    num_devices: int,
    reader_counts: Callable[[], Mapping[str, int]],
  ):
    self._writer, self._bar, self._schedule = writer, bar, schedule
    self._images, self._tokens = images_per_step, tokens_per_step
    self._step_flops, self._num_devices = step_flops, num_devices
    self._reader_counts = reader_counts
    self._peak = peak_flops(jax.local_devices()[0].device_kind)
    self.restart(0)

  def restart(self, step: int) -> None:
    """Starts measuring speeds; called before the loop begins at `step`."""
    self._last_step, self._last_time = step, time.monotonic()
    self._last_wait = 0.0

  def __call__(self, progress: Progress) -> None:
    # Reading a value waits for the step, so the clock comes after it.
    scalars = without_empty({k: float(x) for k, x in progress.metrics.items()})
    now, wait = time.monotonic(), progress.data_wait_seconds
    speed = (progress.step - self._last_step) / max(now - self._last_time, 1e-9)
    # Skipped batches do not advance the optimizer.
    num_updates = progress.step - 1 - int(scalars["num_skipped"])
    scalars["learning_rate"] = float(self._schedule(num_updates))
    scalars["speed/steps_per_second"] = speed
    scalars["speed/images_per_second"] = speed * self._images
    scalars["speed/tokens_per_second"] = speed * self._tokens
    scalars["speed/data_wait_seconds"] = wait - self._last_wait
    if flops := self._step_flops(progress.step):
      scalars |= speed_scalars(
        speed, flops, num_devices=self._num_devices, peak=self._peak
      )
    scalars |= memory_scalars(jax.local_devices())
    scalars |= self._reader_counts()
    self._writer.write_scalars(progress.step, scalars)
    shown = {_SHOWN[n]: x for n, x in scalars.items() if n in _SHOWN}
    self._bar.set_postfix(shown, refresh=False)
    self._bar.update(progress.step - self._bar.n)
    self._last_step, self._last_time, self._last_wait = progress.step, now, wait
