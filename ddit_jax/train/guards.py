"""What watches a run's losses, and when it stops or turns back."""

import collections
import dataclasses
import math
import statistics
from collections.abc import Callable

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
