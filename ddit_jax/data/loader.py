"""Batches of both tasks in a fixed order, read by Grain.

A task's state is one integer, the same on every process and independent of the
number of processes, worker processes and threads. Each process reads the rows
that its devices hold, so a record's place in the global batch does not depend
on the processes.
"""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence

import grain
import numpy as np
from absl import flags

from ddit_jax.batch import DualBatch, ImageToTextBatch, TextToImageBatch
from ddit_jax.data.aspect_buckets import BucketMixture
from ddit_jax.data.bad_records import ReadLog, TooManyBadRecords
from ddit_jax.data.example import TrainingRecord
from ddit_jax.data.mixture import Mixture

# Bytes of prefetched records; the batch being assembled comes on top, and so do
# undecoded files and images, one per thread.
_READ_AHEAD_BYTES = 2**28
ONE_PER_CORE = -1

# More would only use memory; far less already hides slow records.
_BATCHES_AHEAD = 2
_RECORDS_PER_THREAD = 4
# Chunks of a worker process that exist at once: one being read, one in its
# queue, one in transit, and one held by the main process.
_CHUNKS_PER_WORKER = 4
# Smaller arrays are cheaper to copy than to share.
_MIN_SHARED_BYTES = 2**14

# The name in Grain's ElasticIterator, so that their states are compatible.
_STATE = "global_next_index"

_Position = dict[str, int]
_Arrays = dict[str, np.ndarray]
# Global batch size -> the rows that this process reads.
RowsOf = Callable[[int], Sequence[int]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReadPlan:
  """The workers that read a task's records, and how far they prefetch.

  Attributes:
    chunk: records read as a unit; divides this process's rows.
    num_workers: processes that read; 0 reads in this one.
    num_threads: threads that read, in each worker process if there are any; 0
      reads without threads.
    num_ahead: chunks that the threads of one process may hold.
  """

  chunk: int
  num_workers: int = 0
  num_threads: int = 0
  num_ahead: int = 0


def plan_reading(
  record_bytes: int,
  num_rows: int,
  *,
  num_workers: int = 0,
  num_threads: int = ONE_PER_CORE,
  num_bytes: int = _READ_AHEAD_BYTES,
) -> ReadPlan:
  """Plans to prefetch some batches, within `num_bytes`.

  Args:
    record_bytes: size of one finished record.
    num_rows: of a batch, on this process.
    num_workers: processes that read; 0 reads with threads.
    num_threads: reading threads; -1 is one per core, or none in worker
      processes.
    num_bytes: memory for records that are read or being read.

  Raises:
    ValueError: not even one record fits.
  """
  num_fitting = num_bytes // record_bytes
  if num_fitting < max(1, num_workers * _CHUNKS_PER_WORKER):
    raise ValueError(
      f"reading ahead may take {num_bytes} bytes but one record has "
      f"{record_bytes}, and {num_workers} worker processes hold "
      f"{_CHUNKS_PER_WORKER} each: allow more or take fewer workers"
    )
  if num_workers:
    num_threads = max(num_threads, 0)
    num_chunks = num_workers * (_CHUNKS_PER_WORKER + num_threads)
    # All workers share each batch, so that the first one comes soon.
    largest = min(num_fitting // num_chunks, num_rows // num_workers)
    return ReadPlan(
      chunk=max(n for n in range(1, max(largest, 1) + 1) if num_rows % n == 0),
      num_workers=num_workers,
      num_threads=num_threads,
      num_ahead=num_threads,
    )
  if num_threads == ONE_PER_CORE:
    num_threads = usable_cores()
  if not num_threads:
    return ReadPlan(chunk=num_rows)
  num_useful = _BATCHES_AHEAD * num_rows + _RECORDS_PER_THREAD * num_threads
  return ReadPlan(
    chunk=1,
    num_threads=min(num_threads, num_fitting),
    num_ahead=min(num_fitting, num_useful),
  )


def usable_cores() -> int:
  """Number of cores available to this process."""
  if hasattr(os, "sched_getaffinity"):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


class TaskLoader:
  """This process's rows of one task's global batches, in the mixture's order.

  Its state is one integer, the same on every process for any number of them,
  and that of Grain's `ElasticIterator`. Unlike there, a process may read any
  rows, and records are read singly or in chunks, so that the first batch comes
  soon and what is read ahead is a bounded number of records, not of batches.

  Records are logged when their batch is taken, in this process regardless of
  which one read them. After an error each `next` raises it again: nothing is
  skipped. Close it: Grain complains at exit about open worker processes.
  """

  def __init__(
    self,
    mixture: Mixture | BucketMixture,
    log: ReadLog,
    *,
    rows: Sequence[int] | None = None,
    plan: ReadPlan | None = None,
  ):
    """Reads nothing yet.

    Args:
      mixture: records by their global position.
      log: counts records read.
      rows: which of a batch's rows, 0 to batch_size - 1, this process reads,
        in their order; None reads all.
      plan: who reads; None reads in the calling thread, which is best for
        records in memory.

    Raises:
      ValueError: no rows, or rows outside the batch.
    """
    size = mixture.batch_size
    self._rows = [int(row) for row in (range(size) if rows is None else rows)]
    if not self._rows or not 0 <= min(self._rows) <= max(self._rows) < size:
      raise ValueError(
        f"a process reads some rows of a batch of {size}, not {self._rows}: "
        "choose a batch size that the processes divide"
      )
    self.mixture = mixture
    self._log = log
    self._plan = plan or ReadPlan(chunk=len(self._rows))
    self._position = 0
    self._failure: Exception | None = None
    self._iterator: grain.DatasetIterator | None = None

  def __next__(self) -> _Arrays:
    """Arrays with this process's rows of the next batch."""
    if self._failure is not None:
      raise self._failure
    try:
      if self._iterator is None:
        self._iterator = iter(self._dataset())
      arrays, outcomes = next(self._iterator)
      for outcome in outcomes:
        self._log.add(outcome)
    except Exception as error:
      self._failure = error
      self.close()
      if isinstance(error, TooManyBadRecords):
        self._log.add_bad(error.source, error.bad)
      raise
    self._position += self.mixture.batch_size
    return arrays

  def get_state(self) -> _Position:
    """Number of records yielded by all processes together."""
    return {_STATE: self._position}

  def set_state(self, state: _Position) -> None:
    """Continues at a state from `get_state`.

    Raises:
      ValueError: it is not a valid state.
    """
    position = state.get(_STATE)
    if not isinstance(position, int) or position < 0:
      raise ValueError(
        f"a data position is {{{_STATE!r}: a whole number}}, got {state}: take "
        "the one that was saved with the checkpoint"
      )
    self.close()
    self._failure = None
    self._position = position

  def record_ids(self, state: _Position) -> list[str]:
    """The record ids of the global batch before a state."""
    end = state[_STATE]
    positions = range(end - self.mixture.batch_size, end)
    return [self.mixture.record_id(position) for position in positions]

  def close(self) -> None:
    """Stops threads and worker processes; the next batch starts new ones."""
    if self._iterator is not None:
      self._iterator.close()
      self._iterator = None

  def _dataset(self) -> grain.IterDataset:
    """Batches from the present position on."""
    plan = self._plan
    if plan.num_workers and not flags.FLAGS.is_parsed():
      # Grain reads its debug flags for worker processes, and `ddit` has none.
      flags.FLAGS.mark_as_parsed()
    threads = grain.ReadOptions(
      num_threads=plan.num_threads, prefetch_buffer_size=plan.num_ahead
    )
    workers = grain.MultiprocessingOptions(num_workers=plan.num_workers)
    shared = grain.experimental.DatasetOptions(min_shm_size=_MIN_SHARED_BYTES)
    units, join = self.mixture.rows(self._rows, self._position), stack_records
    if plan.chunk > 1 or plan.num_workers:
      units, join = (
        units.batch(plan.chunk, drop_remainder=True, batch_fn=stack_records),
        _join,
      )
    return (
      grain.experimental.WithOptionsIterDataset(
        units.to_iter_dataset(threads), shared
      )
      .mp_prefetch(workers)
      .batch(len(self._rows) // plan.chunk, batch_fn=join)
    )


_Stacked = tuple[_Arrays, list[TrainingRecord]]


def stack_records(records: Sequence[TrainingRecord]) -> _Stacked:
  """Stacks records into arrays; also returns the records without arrays."""
  names = records[0].arrays
  arrays = {name: np.stack([r.arrays[name] for r in records]) for name in names}
  return arrays, [dataclasses.replace(r, arrays={}) for r in records]


def _join(chunks: Sequence[_Stacked]) -> _Stacked:
  """Chunks of one batch, one after the other."""
  if len(chunks) == 1:
    return chunks[0]
  names = chunks[0][0]
  return (
    {name: np.concatenate([c[name] for c, _ in chunks]) for name in names},
    [record for _, records in chunks for record in records],
  )


def dual_batch(
  text_to_image: _Arrays | None = None, image_to_text: _Arrays | None = None
) -> DualBatch:
  """A batch of both tasks' rows, name to array; None is a task that is off.

  Texts without "images" are text-only.
  """
  no_images = {"images": None}
  return DualBatch(
    text_to_image=None
    if text_to_image is None
    else TextToImageBatch(**text_to_image),
    image_to_text=None
    if image_to_text is None
    else ImageToTextBatch(**no_images | image_to_text),
  )


class DualLoader:
  """Host batches of both tasks, and the position after each."""

  def __init__(self, loaders: Mapping[str, TaskLoader]):
    """Args:
    loaders: of the active tasks, by name; the others yield None in each
      batch.

    Raises:
      ValueError: all are off.
    """
    if not loaders:
      raise ValueError("both tasks are off: give one of them a batch_size")
    self._loaders = dict(loaders)

  def __next__(self) -> tuple[DualBatch, dict[str, _Position]]:
    """(this process's rows of the next batches, position after them)."""
    rows = {name: next(loader) for name, loader in self._loaders.items()}
    return dual_batch(**rows), self.position()

  def position(self) -> dict[str, _Position]:
    """Number of records yielded so far, for each active task."""
    return {name: one.get_state() for name, one in self._loaders.items()}

  def record_ids(self, position: dict[str, _Position]) -> dict[str, list[str]]:
    """The record ids of the global batch before a position, by task."""
    return {
      name: self._loaders[name].record_ids(state)
      for name, state in position.items()
    }

  def seek(self, position: dict[str, _Position]) -> None:
    """Continues at a position from `position` or `__next__`.

    Raises:
      ValueError: it names other tasks.
    """
    if set(position) != set(self._loaders):
      raise ValueError(
        f"the data position is of {sorted(position)}, the tasks are "
        f"{sorted(self._loaders)}: switch on what was on when it was saved"
      )
    for name, loader in self._loaders.items():
      loader.set_state(position[name])

  def close(self) -> None:
    """Stops the threads and processes that prefetch."""
    for loader in self._loaders.values():
      loader.close()
