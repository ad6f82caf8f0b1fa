"""Two endless streams of records in a fixed order, as batches.

A stream's state is one integer, the same on every process, whatever the number
of processes and threads: Grain's `ElasticIterator` keeps it for records in
memory, `ReadAheadBatches` for records that are read and decoded.
"""

import dataclasses

import grain
import jax
from grain.experimental import ElasticIterator

from ddit_jax.batch import DualBatch, ImageToTextBatch, TextToImageBatch
from ddit_jax.data.mixtures import Mixture
from ddit_jax.data.read_ahead import (
  DEFAULT_BYTES,
  ReadAheadBatches,
  plan_read_ahead,
)

Position = dict[str, int]


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

  def iterator(self):
    """This process's share of the global batches.

    Raises:
      ValueError: the processes do not divide the batch, or no records.
    """
    if not len(self.source):
      raise ValueError("a stream's source has no records")
    dataset = grain.MapDataset.source(self.source)
    dataset = dataset.seed(self.seed).shuffle().repeat()
    return _batches(dataset, self.batch_size)


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

  def iterator(self) -> "ReadAheadBatches | ElasticIterator":
    """This process's share of the global batches.

    Raises:
      ValueError: the processes do not divide the batch, or not even one record
        may be read ahead.
    """
    if self.num_threads == 0:
      return _batches(
        grain.MapDataset.source(self.mixture), self.mixture.batch_size
      )
    shard = jax.process_index(), jax.process_count()
    batch_size = self.mixture.batch_size
    plan = plan_read_ahead(
      self.mixture.record_bytes,
      batch_size // shard[1],
      num_bytes=self.read_ahead_bytes,
      num_threads=self.num_threads,
    )
    return ReadAheadBatches(
      self.mixture, batch_size=batch_size, shard=shard, read_ahead=plan
    )


class DualStream:
  """Host batches of both streams, and the position behind each."""

  def __init__(
    self,
    text_to_image: Stream | MixtureStream,
    image_to_text: Stream | MixtureStream,
  ):
    self._iterators = {
      "text_to_image": text_to_image.iterator(),
      "image_to_text": image_to_text.iterator(),
    }

  def __next__(self) -> tuple[DualBatch, dict[str, Position]]:
    """(this process's rows of the next batches, position after them)."""
    images = next(self._iterators["text_to_image"])
    texts = next(self._iterators["image_to_text"])
    batch = DualBatch(TextToImageBatch(**images), ImageToTextBatch(**texts))
    return batch, self.position()

  def position(self) -> dict[str, Position]:
    """One integer a stream: how many records it has given."""
    return {
      name: dict(iterator.get_state())
      for name, iterator in self._iterators.items()
    }

  def seek(self, position: dict[str, Position]) -> None:
    """Goes to a position that `position` or `__next__` gave.

    Raises:
      ValueError: it names other streams.
    """
    if set(position) != set(self._iterators):
      raise ValueError(
        f"the data position is of {sorted(position)}, the streams are "
        f"{sorted(self._iterators)}"
      )
    for name, iterator in self._iterators.items():
      iterator.set_state(position[name])

  def close(self) -> None:
    """Stops the threads that read ahead."""
    for iterator in self._iterators.values():
      iterator.close()


def _batches(dataset: grain.MapDataset, batch_size: int):
  """This process's share of global batches, read in the calling thread."""
  shard = grain.sharding.ShardOptions(jax.process_index(), jax.process_count())
  # Threads cost more than they give while records are array rows.
  read = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
  return iter(ElasticIterator(dataset, batch_size, shard, read_options=read))
