"""Two endless streams of records in a fixed order, as batches.

A stream's state is one integer, the same on every process, whatever the number
of processes and threads. Each process reads the rows that its devices hold, so
a record lies at the same place of the global batch whatever the processes.
"""

import dataclasses
from collections.abc import Callable, Sequence

import grain

from ddit_jax.batch import DualBatch, ImageToTextBatch, TextToImageBatch
from ddit_jax.data.mixtures import Mixture
from ddit_jax.data.read_ahead import (
  DEFAULT_BYTES,
  ReadAhead,
  ReadAheadBatches,
  plan_read_ahead,
)
from ddit_jax.data.reading import Record

Position = dict[str, int]
# Global batch size -> which of its rows this process reads.
RowsOf = Callable[[int], Sequence[int]]
# Threads cost more than they give while records are array rows.
_IN_CALLING_THREAD = ReadAhead(num_threads=0, num_records=1)


@dataclasses.dataclass(frozen=True)
class Stream:
  """One source in memory, shuffled anew each epoch and repeated for ever.

  Attributes:
    source: records with `__len__` and `__getitem__`.
    batch_size: global batch size.
    seed: of the order.
  """

  source: object
  batch_size: int
  seed: int

  def iterator(self, rows_of: RowsOf = range) -> ReadAheadBatches:
    """This process's rows of the global batches.

    Raises:
      ValueError: no rows, or no records.
    """
    if not len(self.source):
      raise ValueError("a stream's source has no records")
    return ReadAheadBatches(
      self._shuffled(self.source),
      batch_size=self.batch_size,
      rows=rows_of(self.batch_size),
      read_ahead=_IN_CALLING_THREAD,
    )

  def record_ids(self, positions: range) -> list[str]:
    """Which records lie there, for logs."""
    order = self._shuffled(range(len(self.source)))
    return [f"record {order[position]}" for position in positions]

  def _shuffled(self, source) -> grain.MapDataset:
    dataset = grain.MapDataset.source(source)
    return dataset.seed(self.seed).shuffle().repeat()


@dataclasses.dataclass(frozen=True, kw_only=True)
class MixtureStream:
  """Sources on disk, in a mixture's order, read ahead by threads.

  Attributes:
    mixture: which record lies at which position.
    read_ahead_bytes: most that records read ahead may take.
    num_threads: that read and decode; None takes one a core, 0 reads in the
      calling thread, which is best for records in memory.
  """

  mixture: Mixture
  read_ahead_bytes: int = DEFAULT_BYTES
  num_threads: int | None = None

  @property
  def batch_size(self) -> int:
    """Global batch size."""
    return self.mixture.batch_size

  def record_ids(self, positions: range) -> list[str]:
    """Which records lie there, for logs."""
    return [self.mixture.record_id(position) for position in positions]

  def iterator(self, rows_of: RowsOf = range) -> ReadAheadBatches:
    """This process's rows of the global batches.

    Raises:
      ValueError: no rows, or not even one record may be read ahead.
    """
    rows, plan = rows_of(self.batch_size), _IN_CALLING_THREAD
    if self.num_threads != 0:
      plan = plan_read_ahead(
        self.mixture.record_bytes,
        len(rows),
        num_bytes=self.read_ahead_bytes,
        num_threads=self.num_threads,
      )
    return ReadAheadBatches(
      self.mixture,
      batch_size=self.batch_size,
      rows=rows,
      read_ahead=plan,
    )


def dual_batch(
  text_to_image: Record | None = None, image_to_text: Record | None = None
) -> DualBatch:
  """A batch of both streams' rows, name to array; None is a stream off.

  Texts may come without "images": then they are texts alone.
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


class DualStream:
  """Host batches of both streams, and the position behind each."""

  def __init__(
    self,
    text_to_image: Stream | MixtureStream | None = None,
    image_to_text: Stream | MixtureStream | None = None,
    *,
    rows_of: RowsOf = range,
  ):
    """Streams that are None are off, and give None in each batch.

    Args:
      text_to_image: of the image loss.
      image_to_text: of the text loss.
      rows_of: global batch size -> which rows this process reads; all of them
        by default. See `device_feed.rows_of_process`.

    Raises:
      ValueError: both are off, or what their `iterator` raises.
    """
    streams = {"text_to_image": text_to_image, "image_to_text": image_to_text}
    self._streams = {k: v for k, v in streams.items() if v is not None}
    self._iterators = {
      name: stream.iterator(rows_of) for name, stream in self._streams.items()
    }
    if not self._iterators:
      raise ValueError("both streams are off: give one of them a batch_size")

  def __next__(self) -> tuple[DualBatch, dict[str, Position]]:
    """(this process's rows of the next batches, position after them)."""
    rows = {name: next(it) for name, it in self._iterators.items()}
    return dual_batch(**rows), self.position()

  def position(self) -> dict[str, Position]:
    """One integer a stream that is on: how many records it has given."""
    return {
      name: dict(iterator.get_state())
      for name, iterator in self._iterators.items()
    }

  def record_ids(self, position: dict[str, Position]) -> dict[str, list[str]]:
    """Which records the global batch before a position holds, by stream."""
    found = {}
    for name, state in position.items():
      (end,) = state.values()
      stream = self._streams[name]
      found[name] = stream.record_ids(range(end - stream.batch_size, end))
    return found

  def seek(self, position: dict[str, Position]) -> None:
    """Goes to a position that `position` or `__next__` gave.

    Raises:
      ValueError: it names other streams.
    """
    if set(position) != set(self._iterators):
      raise ValueError(
        f"the data position is of {sorted(position)}, the streams are "
        f"{sorted(self._iterators)}: switch on what was on when it was saved"
      )
    for name, iterator in self._iterators.items():
      iterator.set_state(position[name])

  def close(self) -> None:
    """Stops the threads that read ahead."""
    for iterator in self._iterators.values():
      iterator.close()
