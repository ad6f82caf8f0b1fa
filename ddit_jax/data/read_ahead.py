"""Batches of a random-access dataset, read ahead by threads, within a bound."""

import collections
import concurrent.futures
import dataclasses
import os
import weakref
from collections.abc import Sequence

import numpy as np

from ddit_jax.data.reading import Record

DEFAULT_BYTES = 2**28

# More would only take memory: slow records are evened out by far less.
_BATCHES_AHEAD = 2
_RECORDS_PER_THREAD = 4

# As Grain's ElasticIterator calls it, so that both continue each other.
_STATE = "global_next_index"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReadAhead:
  """How far threads may read ahead of the batches.

  Attributes:
    num_threads: that read and decode; 0 reads in the calling thread.
    num_records: read or being read, and not yet in a batch.
  """

  num_threads: int
  num_records: int


def plan_read_ahead(
  record_bytes: int,
  batch_rows: int,
  *,
  num_bytes: int = DEFAULT_BYTES,
  num_threads: int | None = None,
) -> ReadAhead:
  """Some batches or some records a thread, as far as `num_bytes` hold them.

  Args:
    record_bytes: size of one finished record.
    batch_rows: of a batch, on this process.
    num_bytes: of records that are read or being read; the batch that is
      being put together comes on top, and so do undecoded files and pictures,
      one a thread.
    num_threads: that read; None takes one a core.

  Raises:
    ValueError: not even one record fits, or no thread is given.
  """
  num_threads = usable_cores() if num_threads is None else num_threads
  if num_threads < 1:
    raise ValueError(f"reading takes at least one thread, got {num_threads}")
  num_fitting = num_bytes // record_bytes
  if num_fitting < 1:
    raise ValueError(
      f"reading ahead may take {num_bytes} bytes but one record has "
      f"{record_bytes}: allow more"
    )
  num_useful = _BATCHES_AHEAD * batch_rows + _RECORDS_PER_THREAD * num_threads
  return ReadAhead(
    num_threads=min(num_threads, num_fitting),
    num_records=min(num_fitting, num_useful),
  )


def usable_cores() -> int:
  """Cores that this process may run on."""
  if hasattr(os, "sched_getaffinity"):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


class ReadAheadBatches:
  """This process's rows of the global batches, in the dataset's order.

  Its state is one integer, the same on every process whatever their number,
  and that of Grain's `ElasticIterator`. Unlike there, a process may read any
  rows, those that its devices hold, so that a row lies at one place of the
  global batch whatever the processes; and threads share the records of one
  batch, so the first batch comes soon, and what is read ahead is counted in
  records and not in batches.

  After an error each `next` raises it again: nothing is skipped.
  """

  def __init__(
    self,
    dataset: Sequence[Record],
    *,
    batch_size: int,
    rows: Sequence[int],
    read_ahead: ReadAhead,
  ):
    """Args:
    dataset: records by their global position; endless.
    batch_size: global.
    rows: which of a batch's positions, 0 to batch_size - 1, this process
      reads, in their order.
    read_ahead: bounds.

    Raises:
      ValueError: no rows, or rows outside the batch.
    """
    self._rows = [int(row) for row in rows]
    if (
      not self._rows or not 0 <= min(self._rows) <= max(self._rows) < batch_size
    ):
      raise ValueError(
        f"a process reads some rows of a batch of {batch_size}, not "
        f"{self._rows}: choose a batch size that the processes divide"
      )
    self._dataset = dataset
    self._batch_size = batch_size
    self._read_ahead = read_ahead
    self._next_position = 0
    self._num_started, self._first_position = 0, 0
    self._failure: Exception | None = None
    self._pending: collections.deque[concurrent.futures.Future] = (
      collections.deque()
    )
    self._pool = None
    self._stop_pool = None

  def __next__(self) -> Record:
    """Arrays with this process's rows of the next batch."""
    if self._failure is not None:
      raise self._failure
    try:
      rows = [self._next_row() for _ in self._rows]
    except Exception as error:
      self._failure = error
      self._cancel()
      raise
    self._next_position += self._batch_size
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}

  def get_state(self) -> dict[str, int]:
    """How many records all processes together have given."""
    return {_STATE: self._next_position}

  def set_state(self, state: dict[str, int]) -> None:
    """Goes to a state that `get_state` gave.

    Raises:
      ValueError: it is none.
    """
    position = state.get(_STATE)
    if not isinstance(position, int) or position < 0:
      raise ValueError(
        f"a data position is {{{_STATE!r}: a whole number}}, got {state}: take "
        "the one that was saved with the checkpoint"
      )
    self._failure = None
    self._next_position = position
    self._cancel()

  def close(self) -> None:
    """Stops the threads and waits for them, a record's time at most."""
    self._cancel()
    if self._pool is not None:
      self._stop_pool.detach()
      self._pool.shutdown(wait=True, cancel_futures=True)
      self._pool = None

  def _next_row(self) -> Record:
    if not self._read_ahead.num_threads:
      return self._dataset[self._start_reading()]
    if self._pool is None:
      self._start_pool()
    while len(self._pending) < self._read_ahead.num_records:
      position = self._start_reading()
      self._pending.append(
        self._pool.submit(self._dataset.__getitem__, position)
      )
    return self._pending.popleft().result()

  def _start_reading(self) -> int:
    """The next of this process's positions; each is started once."""
    batch, row = divmod(self._num_started, len(self._rows))
    self._num_started += 1
    return self._first_position + batch * self._batch_size + self._rows[row]

  def _start_pool(self) -> None:
    self._pool = concurrent.futures.ThreadPoolExecutor(
      self._read_ahead.num_threads, thread_name_prefix="read-ahead"
    )
    # A forgotten iterator shall not read on.
    self._stop_pool = weakref.finalize(
      self, self._pool.shutdown, wait=False, cancel_futures=True
    )
    self._stop_pool.atexit = False

  def _cancel(self) -> None:
    """Forgets what was read ahead."""
    self._num_started = 0
    self._first_position = self._next_position
    while self._pending:
      self._pending.popleft().cancel()
