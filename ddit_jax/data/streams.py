"""Two endless streams of records in a fixed order, batched by Grain.

Grain's `ElasticIterator` keeps one integer of state, the same on every
process, whatever the number of processes, workers and threads.
"""

import dataclasses

import grain
import jax
from grain.experimental import ElasticIterator

from ddit_jax.batch import DualBatch, ImageToTextBatch, TextToImageBatch

Position = dict[str, int]


@dataclasses.dataclass(frozen=True)
class Stream:
  """One source, shuffled anew each epoch and repeated for ever.

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
    shard = grain.sharding.ShardOptions(
      jax.process_index(), jax.process_count()
    )
    # Threads cost more than they give while records are array rows.
    read = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    return iter(
      ElasticIterator(dataset, self.batch_size, shard, read_options=read)
    )


class DualStream:
  """Host batches of both streams, and the position behind each."""

  def __init__(self, text_to_image: Stream, image_to_text: Stream):
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
    """Stops Grain's threads."""
    for iterator in self._iterators.values():
      iterator.close()
