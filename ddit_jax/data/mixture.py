"""Several sources as one endless, shuffled, weighted order of records.

Grain shuffles, repeats and maps each source, and selects between them. The
choice of source is our own: `grain.MapDataset.mix` has no schedule of weights,
rounds them to whole hundredths of the smallest, and interleaves without the
bound of `Interleave`.
"""

import array
import bisect
import collections
import dataclasses
import hashlib
import itertools
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import grain

from ddit_jax.data.example import TrainingRecord
from ddit_jax.data.schedule import MAX_CYCLE, WeightSchedule

_SEED_BYTES = 4


class Interleave:
  """An endless sequence of names in which `parts[name]` of a cycle are `name`.

  Among the first k names, each occurs less than once more or less often than
  its weight gives (R. Tijdeman, "The chairman assignment problem", Discrete
  Mathematics 32, 1980: the difference is at most 1 - 1 / (2n - 2) for n > 1
  names).
  """

  def __init__(self, parts: Mapping[str, int]):
    """Args:
    parts: name to a positive number; they add up to at most MAX_CYCLE.
    """
    self._parts = dict(parts)
    self._length = sum(parts.values())
    if not parts or min(parts.values()) < 1 or self._length > MAX_CYCLE:
      raise ValueError(
        f"the parts of a cycle must be positive and add up to at most "
        f"{MAX_CYCLE}, got {dict(parts)}"
      )
    self._cycle = _tijdeman_cycle(self._parts)
    counts = dict.fromkeys(parts, 0)
    self._earlier = array.array("q")
    for name in self._cycle:
      self._earlier.append(counts[name])
      counts[name] += 1

  def locate(self, place: int) -> tuple[str, int]:
    """(name at `place`, number of earlier occurrences)."""
    cycle, rest = divmod(place, self._length)
    name = self._cycle[rest]
    return name, cycle * self._parts[name] + self._earlier[rest]

  def counts(self, place: int) -> dict[str, int]:
    """Occurrences of each name before `place`; they add up to it."""
    cycle, rest = divmod(place, self._length)
    begun = collections.Counter(itertools.islice(self._cycle, rest))
    return {
      name: cycle * part + begun[name] for name, part in self._parts.items()
    }


def _tijdeman_cycle(parts: dict[str, int]) -> list[str]:
  """Tijdeman's sequence, of length sum(parts.values()).

  Step k may take a name once k times its weight exceeds its count by at least
  1 / scale, with scale = 2n - 2; of these names it takes the one with the
  earliest deadline. All in integers, so equal on all machines.
  """
  length, scale = sum(parts.values()), max(2 * len(parts) - 2, 1)
  counts = dict.fromkeys(parts, 0)
  cycle = []
  for step in range(1, length + 1):
    chosen, deadline = None, None
    for name, part in parts.items():
      if scale * (part * step - counts[name] * length) < length:
        continue
      # The quotient's order decides, by cross-multiplication.
      own = scale * (counts[name] + 1) - 1, part
      if chosen is None or own[0] * deadline[1] < deadline[0] * own[1]:
        chosen, deadline = name, own
    counts[chosen] += 1
    cycle.append(chosen)
  return cycle


class Reader(Protocol):
  """The records of one source; see `ddit_jax.data.reader`.

  Attributes:
    record_bytes: size of one record in memory.
  """

  record_bytes: int

  def __len__(self) -> int:
    """Number of records."""

  def read(self, visit: int, index: int) -> TrainingRecord:
    """The record at `index`, as visit number `visit` of this source."""

  def record_id(self, index: int) -> str:
    """The id of the record at `index`, for logs."""


class Mixture:
  """Records by their position in training, with random access.

  The record at a position is a function of (seeds, schedule up to the position)
  alone. Each source yields all its records once per epoch, in a new order each
  time, and continues where it was when the weights change. Weights hold within
  one record at all times (see `Interleave`).

  Attributes:
    batch_size: records of one step.
    record_bytes: size of the largest record in memory.
    records: of each source, by visit, in the order of `order.names`.
    order: the source at a position.
  """

  def __init__(
    self,
    readers: Mapping[str, Reader],
    schedule: WeightSchedule,
    *,
    batch_size: int,
    seed_of: Callable[[str], int],
  ):
    """Args:
    readers: source's name to its records.
    schedule: weights by step; names sources of `readers`.
    batch_size: global, so step s begins at record s * batch_size.
    seed_of: source's name to the seed of its order, 32 bits; see
      `source_seed`.
    """
    if batch_size < 1:
      raise ValueError(f"the batch size must be positive, got {batch_size}")
    names = sorted(schedule.names())
    if unknown := set(names) - set(readers):
      raise ValueError(
        f"the weights name {sorted(unknown)}; there are {sorted(readers)}"
      )
    self.batch_size = batch_size
    self.record_bytes = max(r.record_bytes for r in readers.values())
    self._readers = {name: readers[name] for name in names}
    self._orders = {
      name: _epochs(len(readers[name]), seed_of(name)) for name in names
    }
    self.records = [
      self._orders[name].map_with_index(readers[name].read) for name in names
    ]
    self.order = SourceOrder(schedule, batch_size)

  def __len__(self) -> int:
    return sys.maxsize

  def __getitem__(self, position: int) -> TrainingRecord:
    """The record at a position, 0 or more."""
    source, visit = self.order.locate(position)
    return self.records[source][visit]

  def locate(self, position: int) -> tuple[str, int]:
    """(source, how many of its records come before this position)."""
    source, visit = self.order.locate(position)
    return self.order.names[source], visit

  def record_id(self, position: int) -> str:
    """The id of the record at a position, for logs."""
    name, visit = self.locate(position)
    index = int(self._orders[name][visit])
    return f"{name}: {self._readers[name].record_id(index)}"

  def rows(self, rows: Sequence[int], start: int = 0) -> grain.MapDataset:
    """The records of some rows of each batch, endless, batch after batch.

    Args:
      rows: which of a batch's rows, 0 to batch_size - 1, in their order.
      start: position at which the first batch begins.
    """
    return grain.MapDataset.select_from_datasets(
      self.records, RowSelection(self.order, tuple(rows), start)
    )


class Order(Protocol):
  """What a position holds.

  Attributes:
    batch_size: positions of one batch.
  """

  batch_size: int

  def locate(self, position: int) -> tuple[int, int]:
    """(number of a data set, how many of its records come before)."""


class SourceOrder:
  """The source at a position, and its number of earlier occurrences.

  Attributes:
    batch_size: records of one step.
    names: of the sources, sorted.
  """

  def __init__(self, schedule: WeightSchedule, batch_size: int):
    self.batch_size = batch_size
    self.names = sorted(schedule.names())
    self._numbers = {name: number for number, name in enumerate(self.names)}
    self._starts = [phase.start * batch_size for phase in schedule.phases]
    self._phases = [Interleave(dict(phase.parts)) for phase in schedule.phases]
    # Records of each source before each phase.
    self._before = [dict.fromkeys(self.names, 0)]
    for phase, (start, stop) in zip(
      self._phases, itertools.pairwise(self._starts), strict=False
    ):
      given = phase.counts(stop - start)
      last = self._before[-1]
      self._before.append({n: last[n] + given.get(n, 0) for n in self.names})

  def locate(self, position: int) -> tuple[int, int]:
    """(index of the source, number of its earlier records)."""
    if position < 0:
      raise IndexError(f"positions begin at 0, got {position}")
    phase = bisect.bisect_right(self._starts, position) - 1
    name, count = self._phases[phase].locate(position - self._starts[phase])
    return self._numbers[name], self._before[phase][name] + count

  def counts(self, position: int) -> dict[str, int]:
    """Occurrences of each source before a position."""
    phase = bisect.bisect_right(self._starts, position) - 1
    begun = self._phases[phase].counts(position - self._starts[phase])
    return {n: self._before[phase][n] + begun.get(n, 0) for n in self.names}


@dataclasses.dataclass(frozen=True)
class RowSelection(grain.transforms.DatasetSelectionMap):
  """Grain's selection of a record: an order at this process's positions.

  Attributes:
    order: with `locate` and `batch_size`, see `SourceOrder`.
    rows: which of a batch's rows, in their order.
    start: position at which the first batch begins.
  """

  order: Order
  rows: tuple[int, ...]
  start: int

  def __len__(self) -> int:
    return sys.maxsize

  def __getitem__(self, index: int) -> tuple[int, int]:
    batch, row = divmod(index, len(self.rows))
    position = self.start + batch * self.order.batch_size + self.rows[row]
    return self.order.locate(position)


def source_seed(seed: int, name: str) -> int:
  """The seed of a source's order: 32 bits, unrelated for neighbouring seeds.

  Grain's epoch e shuffles with seed + e, so seeds close to each other would
  give sources of one length the same orders, epochs apart.
  """
  text = f"{seed}/{name}".encode()
  digest = hashlib.blake2b(text, digest_size=_SEED_BYTES).digest()
  return int.from_bytes(digest, "little")


def _epochs(num_records: int, seed: int) -> grain.MapDataset:
  """Record numbers by visit: a new permutation each epoch."""
  order = grain.MapDataset.range(num_records).shuffle(seed=seed).repeat()
  # Grain initialises itself at the first access, which is not thread-safe.
  order[0]
  return order
