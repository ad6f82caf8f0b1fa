"""A queue in front of one device: jobs of one group run together."""

import collections
import concurrent.futures
import dataclasses
import logging
import threading
from collections.abc import Callable, Hashable, Sequence
from typing import Any

_log = logging.getLogger(__name__)


class BusyError(RuntimeError):
  """The queue is full."""


class Unwanted(Exception):
  """A call ended early: nobody wanted its rows any more."""


@dataclasses.dataclass(frozen=True, eq=False)
class _Job:
  """Rows of one request.

  Attributes:
    group: only jobs of an equal group run in one call.
    rows: what the call takes, at most a batch.
    future: gets as many results. Cancelled, the job is not run.
  """

  group: Hashable
  rows: Sequence[Any]
  future: concurrent.futures.Future


class Batcher:
  """Runs jobs in a thread of its own, in their order, several in one call.

  Args:
    run: (group, rows) -> one result per row; may raise `Unwanted`, for all jobs
      of the call.
    batch_size: most rows of a call.
    max_waiting: most rows in the queue.
  """

  def __init__(
    self,
    run: Callable[[Hashable, list[Any]], Sequence[Any]],
    *,
    batch_size: int,
    max_waiting: int,
  ):
    self._run = run
    self.batch_size = batch_size
    self.max_waiting = max_waiting
    self._jobs: collections.deque[_Job] = collections.deque()
    self._changed = threading.Condition()
    self._is_closed = False
    self._thread = threading.Thread(target=self._work, daemon=True)
    self._thread.start()

  def submit(
    self, group: Hashable, rows: Sequence[Any]
  ) -> concurrent.futures.Future:
    """Queues rows; the future's result is a list of as many results.

    Raises:
      BusyError: too many rows wait already, or the queue is closed.
    """
    with self._changed:
      if self._is_closed:
        raise BusyError("the server is shutting down")
      waiting = self.num_waiting
      if waiting + len(rows) > self.max_waiting:
        raise BusyError(
          f"{waiting} images and texts wait already, at most "
          f"{self.max_waiting} may: try again later"
        )
      job = _Job(group, rows, concurrent.futures.Future())
      self._jobs.append(job)
      self._changed.notify()
    return job.future

  @property
  def num_waiting(self) -> int:
    """Rows in the queue that nobody has cancelled."""
    return sum(len(j.rows) for j in self._jobs if not j.future.cancelled())

  def close(self) -> None:
    """Ends the thread after the call that runs; waiting jobs are cancelled."""
    with self._changed:
      self._is_closed = True
      for job in self._jobs:
        job.future.cancel()
      self._changed.notify()
    self._thread.join()

  def _work(self) -> None:
    while batch := self._next_batch():
      try:
        self._run_batch(batch)
      except Unwanted as error:
        for job in batch:
          job.future.set_exception(error)
      except Exception as error:
        if len(batch) == 1:
          batch[0].future.set_exception(error)
          continue
        # One job may be to blame: the others get their results.
        _log.warning("a batch of %d jobs fails: one at a time", len(batch))
        for job in batch:
          try:
            self._run_batch([job])
          except Exception as own_error:
            job.future.set_exception(own_error)

  def _run_batch(self, batch: list[_Job]) -> None:
    rows = [row for job in batch for row in job.rows]
    results = list(self._run(batch[0].group, rows))
    for job in batch:
      mine, results = results[: len(job.rows)], results[len(job.rows) :]
      job.future.set_result(mine)

  def _next_batch(self) -> list[_Job]:
    """The first job and later ones that fit to it; [] when closed."""
    with self._changed:
      while True:
        if self._is_closed:
          return []
        batch = self._take()
        if batch:
          return batch
        self._changed.wait()

  def _take(self) -> list[_Job]:
    batch: list[_Job] = []
    left: collections.deque[_Job] = collections.deque()
    size = 0
    for job in self._jobs:
      is_fit = not batch or (
        job.group == batch[0].group and size + len(job.rows) <= self.batch_size
      )
      if not is_fit:
        left.append(job)
      # False if it was cancelled.
      elif job.future.set_running_or_notify_cancel():
        batch.append(job)
        size += len(job.rows)
    self._jobs = left
    return batch
