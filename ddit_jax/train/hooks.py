"""What watches a run's losses, and when it stops or turns back."""

import collections
import dataclasses
import json
import logging
import math
import pathlib
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

from ddit_jax.errors import InputError
from ddit_jax.losses.time_buckets import without_empty
from ddit_jax.monitor.device_stats import (
  memory_scalars,
  peak_flops,
  speed_scalars,
)
from ddit_jax.monitor.metric_writer import MetricWriter
from ddit_jax.monitor.progress import ProgressBar
from ddit_jax.train.loop import Progress

# A step's numbers are read when this many more were started, so that reading
# never holds up the devices.
_LAG = 2
# Total losses whose median a spike is measured against, and how many of them
# there must be.
_WINDOW, _MIN_HISTORY = 100, 20


class LossSpike(Exception):
  """A loss far above its recent median.

  Attributes:
    step: where it was seen.
    data_position: behind the batch that gave it.
  """

  def __init__(self, step: int, loss: float, median: float, data_position):
    super().__init__(
      f"the loss of step {step} is {loss:.6g}, its recent median {median:.6g}"
    )
    self.step, self.data_position = step, data_position


@dataclasses.dataclass(frozen=True, kw_only=True)
class SkippedBatch:
  """A batch that the step left out.

  Attributes:
    step: its number.
    losses: the metrics that name a loss or a norm, as they came.
    num_in_row: how many were left out in a row, with this one.
    data_position: behind the batch.
  """

  step: int
  losses: dict[str, float]
  num_in_row: int
  data_position: dict


class LossGuard:
  """Looks at every step's numbers a little later; a hook of the loop.

  Args:
    on_skipped: called with each `SkippedBatch`.
    spike_factor: times the recent median that a total loss may reach; 0 sets
      no limit.
  """

  def __init__(
    self, on_skipped: Callable[[SkippedBatch], None], *, spike_factor: float
  ):
    self._on_skipped, self._spike_factor = on_skipped, spike_factor
    self._unread: collections.deque = collections.deque()
    self._recent: collections.deque = collections.deque(maxlen=_WINDOW)

  def __call__(self, progress: Progress) -> None:
    """Raises LossSpike, or what `on_skipped` raises."""
    metrics = {
      name: value
      for name, value in progress.metrics.items()
      if name.startswith(("loss/", "grad_norm", "num_skipped"))
    }
    self._unread.append((progress.step, metrics, progress.data_position))
    while len(self._unread) > (0 if progress.is_last else _LAG):
      self._read_one()

  def catch_up(self) -> None:
    """Reads all steps so far, e.g. before a checkpoint."""
    while self._unread:
      self._read_one()

  def forget_unread(self) -> None:
    """Leaves out steps that the run went back over."""
    self._unread.clear()

  def _read_one(self) -> None:
    step, metrics, position = self._unread.popleft()
    numbers = {name: float(value) for name, value in metrics.items()}
    num_in_row = int(numbers["num_skipped_in_row"])
    if num_in_row:
      losses = {k: v for k, v in numbers.items() if "skipped" not in k}
      self._on_skipped(
        SkippedBatch(
          step=step,
          losses=losses,
          num_in_row=num_in_row,
          data_position=position,
        )
      )
      return
    loss = numbers["loss/total"]
    if self._is_spike(loss):
      raise LossSpike(step, loss, statistics.median(self._recent), position)
    self._recent.append(loss)

  def _is_spike(self, loss: float) -> bool:
    if not self._spike_factor or len(self._recent) < _MIN_HISTORY:
      return False
    limit = self._spike_factor * statistics.median(self._recent)
    return math.isfinite(limit) and loss > limit


FILE_NAME = "incidents.jsonl"

_log = logging.getLogger(__name__)


class TooManySkipped(InputError):
  """Batch after batch gave no finite loss or gradient."""


class Incidents:
  """Left-out batches and rollbacks; process 0 writes them.

  Args:
    workdir: holds the file.
    record_ids: data position behind a batch -> its records by stream.
    max_skipped_in_row: more stop the run.
  """

  def __init__(
    self,
    workdir: pathlib.Path,
    record_ids: Callable[[Mapping], Mapping],
    *,
    max_skipped_in_row: int,
  ):
    self._path = workdir / FILE_NAME
    self._record_ids = record_ids
    self._max_in_row = max_skipped_in_row

  def add_skipped(self, batch: SkippedBatch) -> None:
    """Lists a left-out batch with its records.

    Raises:
      TooManySkipped: there were too many in a row.
    """
    self._append(
      "skipped_batch",
      batch.data_position,
      step=batch.step,
      losses={name: repr(value) for name, value in batch.losses.items()},
    )
    _log.warning(
      "step %d: a loss or gradient is not finite, so its batch was left out; "
      "its records are in %s",
      batch.step,
      self._path,
    )
    if batch.num_in_row > self._max_in_row:
      raise TooManySkipped(
        f"{batch.num_in_row} batches in a row up to step {batch.step} gave no "
        "finite loss or gradient and were left out, "
        f"train.max_skipped_in_row is {self._max_in_row}: look at "
        f"{self._path}; the checkpoints are intact: mend the data, or go on in "
        "another --workdir with init_from and a lower optimizer.learning_rate"
      )

  def add_rollback(self, spike: LossSpike, to_step: int) -> None:
    """Lists a return to an earlier checkpoint."""
    self._append(
      "rollback",
      spike.data_position,
      step=spike.step,
      to_step=to_step,
      cause=str(spike),
    )
    _log.warning(
      "%s: going back to step %d and past that batch", spike, to_step
    )

  def _append(self, event: str, data_position: Mapping, **fields: Any) -> None:
    if jax.process_index() != 0:
      return
    fields["records"] = self._record_ids(data_position)
    line = json.dumps({"event": event, "time": time.time(), **fields})
    with open(self._path, "a") as file:
      file.write(line + "\n")


class StepLog:
  """Writes a step's scalars and moves the progress bar."""

  def __init__(
    self, job, writer: MetricWriter, bar: ProgressBar, feed, start: int
  ):
    self._writer, self._bar, self._feed = writer, bar, feed
    settings = job.settings
    self._schedule = settings.optimizer.schedule(settings.train.num_steps)
    streams = settings.data.streams_on().values()
    self._images = sum(stream.batch_size for stream in streams)
    self._tokens = sum(s.batch_size * s.text_length for s in streams)
    self._data = job.data
    self._last = (start, time.monotonic(), 0.0)
    self._mesh, self._num_flops = job.mesh, job.step_flops
    self._peak = peak_flops(jax.local_devices()[0].device_kind)

  def __call__(self, progress: Progress) -> None:
    scalars = without_empty({k: float(x) for k, x in progress.metrics.items()})
    step, now, waited = progress.step, time.monotonic(), self._feed.wait_seconds
    last_step, last_time, last_waited = self._last
    self._last = (step, now, waited)
    speed = (step - last_step) / max(now - last_time, 1e-9)
    # The optimiser does not count what was left out.
    num_updates = step - 1 - int(scalars["num_skipped"])
    scalars["learning_rate"] = float(self._schedule(num_updates))
    scalars["speed/steps_per_second"] = speed
    scalars["speed/images_per_second"] = speed * self._images
    scalars["speed/tokens_per_second"] = speed * self._tokens
    scalars["speed/data_wait_seconds"] = waited - last_waited
    scalars |= speed_scalars(
      speed,
      self._num_flops(step),
      num_devices=self._mesh.size,
      peak=self._peak,
    )
    scalars |= memory_scalars(jax.local_devices())
    scalars |= self._data.counts()
    self._writer.write_scalars(step, scalars)
    self._bar.update(step, scalars)
