"""Several sources as one endless, shuffled, weighted order of records."""

import bisect
import hashlib
import sys
from collections.abc import Mapping

from ddit_jax.data.interleave import Interleave
from ddit_jax.data.reading import ReadExamples, Record
from ddit_jax.data.schedules import WeightSchedule

_SEED_BYTES = 4


class Mixture:
  """Records by their position in training, with random access.

  Which record lies at a position is a function of (seed, schedule up to the
  position) alone. Each source gives all its records once an epoch, in a new
  order each time, and goes on where it was when the weights change. Weights
  hold within one record at all times (see `Interleave`).

  Attributes:
    batch_size: records of one step.
    record_bytes: size of one record in memory.
  """

  def __init__(
    self,
    readers: Mapping[str, ReadExamples],
    schedule: WeightSchedule,
    *,
    batch_size: int,
    seed: int,
  ):
    """Args:
    readers: source's name to its records.
    schedule: weights by step; names sources of `readers`.
    batch_size: global, so step s begins at record s * batch_size.
    seed: of the order.
    """
    if batch_size < 1:
      raise ValueError(f"the batch size must be positive, got {batch_size}")
    if unknown := schedule.names() - set(readers):
      raise ValueError(
        f"the weights name {sorted(unknown)}; there are {sorted(readers)}"
      )
    self.batch_size = batch_size
    self.record_bytes = max(r.record_bytes for r in readers.values())
    self._readers = dict(readers)
    self._orders = {
      name: _epochs(len(readers[name]), _seed(seed, name))
      for name in sorted(schedule.names())
    }
    self._starts = [piece.start * batch_size for piece in schedule.pieces]
    self._pieces = [Interleave(dict(piece.parts)) for piece in schedule.pieces]
    self._visits_before = self._count_pieces()

  def __len__(self) -> int:
    return sys.maxsize

  def __getitem__(self, position: int) -> Record:
    """The record at a position, 0 or more."""
    name, visit = self.locate(position)
    return self._readers[name].read(self._orders[name][visit], visit)

  def record_id(self, position: int) -> str:
    """Which record lies at a position, for logs."""
    name, visit = self.locate(position)
    index = int(self._orders[name][visit])
    identify = getattr(self._readers[name], "record_id", "record {}".format)
    return f"{name}: {identify(index)}"

  def locate(self, position: int) -> tuple[str, int]:
    """(source, how many of its records lie before this position)."""
    number, place = self._place(position)
    name, count = self._pieces[number].locate(place)
    return name, self._visits_before[number].get(name, 0) + count

  def visits(self, position: int) -> dict[str, int]:
    """How many records of each source lie before a position."""
    number, place = self._place(position)
    counts = self._pieces[number].counts(place)
    before = self._visits_before[number]
    return {
      name: before.get(name, 0) + counts.get(name, 0) for name in self._orders
    }

  def _place(self, position: int) -> tuple[int, int]:
    """(piece, position in it)."""
    if position < 0:
      raise IndexError(f"positions begin at 0, got {position}")
    number = bisect.bisect_right(self._starts, position) - 1
    return number, position - self._starts[number]

  def _count_pieces(self) -> list[dict[str, int]]:
    """What each source has given before each piece."""
    before: dict[str, int] = {}
    counts = []
    for number, piece in enumerate(self._pieces):
      counts.append(dict(before))
      if number + 1 < len(self._pieces):
        length = self._starts[number + 1] - self._starts[number]
        for name, count in piece.counts(length).items():
          before[name] = before.get(name, 0) + count
    return counts


def _epochs(num_records: int, seed: int):
  """Random access to record numbers: a new permutation each epoch."""
  # Grain brings jax along, which index tools do without.
  import grain

  order = grain.MapDataset.range(num_records).shuffle(seed=seed).repeat()
  # Grain sets itself up at the first access, which no two threads may do.
  order[0]
  return order


def _seed(seed: int, name: str) -> int:
  """32 bits, unrelated for neighbouring seeds.

  Grain's epoch e shuffles with seed + e, so seeds close to each other would
  give sources of one length the same orders, epochs apart.
  """
  text = f"{seed}/{name}".encode()
  digest = hashlib.blake2b(text, digest_size=_SEED_BYTES).digest()
  return int.from_bytes(digest, "little")
