"""Several sources as one endless, shuffled, weighted order of records."""

import array
import bisect
import collections
import dataclasses
import fractions
import hashlib
import itertools
import math
import numbers
import sys
from collections.abc import Collection, Mapping

from ddit_jax.data.reader import ReadExamples, Record
from ddit_jax.errors import check_known

# A cycle is tabulated; longer ones would only take time and memory.
MAX_CYCLE = 1_000_000


class Interleave:
  """An endless sequence of names in which `parts[name]` of a cycle are `name`.

  Among the first k names, each occurs less than once more or less often than
  its share of k says (R. Tijdeman, "The chairman assignment problem",
  Discrete Mathematics 32, 1980: the difference is at most 1 - 1 / (2n - 2) for
  n > 1 names).
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
    self._cycle = _cycle(self._parts)
    counts = dict.fromkeys(parts, 0)
    self._earlier = array.array("q")
    for name in self._cycle:
      self._earlier.append(counts[name])
      counts[name] += 1

  def locate(self, place: int) -> tuple[str, int]:
    """(name at `place`, how often it occurs before)."""
    cycle, rest = divmod(place, self._length)
    name = self._cycle[rest]
    return name, cycle * self._parts[name] + self._earlier[rest]

  def counts(self, place: int) -> dict[str, int]:
    """How often each name occurs before `place`; they add up to it."""
    cycle, rest = divmod(place, self._length)
    begun = collections.Counter(itertools.islice(self._cycle, rest))
    return {
      name: cycle * part + begun[name] for name, part in self._parts.items()
    }


def _cycle(parts: dict[str, int]) -> list[str]:
  """Tijdeman's sequence, of length sum(parts.values()).

  Step k may take a name once its share of k is ahead of its count by at least
  1 / scale, with scale = 2n - 2; of these names it takes the one that must
  come first. All in integers, so equal on all machines.
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


# {"0": {"web": 3, "art": 1}, "60000": {"web": 1, "art": 1}}
ScheduleConfig = Mapping[str | int, Mapping[str, float]]

_SUGGESTED_TOTAL = 1000


@dataclasses.dataclass(frozen=True)
class Piece:
  """Constant weights from one step on.

  Attributes:
    start: the first step.
    parts: name to a positive integer, sorted by name, without a common
      divisor; sources of weight zero are left out.
  """

  start: int
  parts: tuple[tuple[str, int], ...]


@dataclasses.dataclass(frozen=True)
class WeightSchedule:
  """Weights as a function of the step.

  Attributes:
    pieces: in order of their starts; the first starts at 0; neighbours
      differ.
  """

  pieces: tuple[Piece, ...]

  def at(self, step: int) -> Piece:
    """The piece that holds at `step`, 0 or more."""
    starts = [piece.start for piece in self.pieces]
    return self.pieces[bisect.bisect_right(starts, step) - 1]

  def names(self) -> set[str]:
    """Sources with a positive weight at some step."""
    return {name for piece in self.pieces for name, _ in piece.parts}


def parse_schedule(
  config: ScheduleConfig, known_names: Collection[str] | None = None
) -> WeightSchedule:
  """Checks a schedule's config form.

  Args:
    config: step to weights, e.g. {"0": {"a": 3, "b": 1}, "60000": {"a": 1}}; a
      source that a piece does not name has weight zero there.
    known_names: of sources; None takes any. All must be named somewhere, if
      only with weight zero.

  Raises:
    ValueError: a step, name or weight makes no sense.
  """
  weights = {_step(key): table for key, table in config.items()}
  if 0 not in weights or len(weights) != len(config):
    raise ValueError(
      f"the steps of the weights are {[str(key) for key in config]}: name "
      'each once, and begin with "0"'
    )
  if known_names is not None:
    _check_names(weights, known_names)
  pieces = [
    Piece(step, _parts(step, table)) for step, table in sorted(weights.items())
  ]
  changes = [
    piece
    for before, piece in itertools.pairwise([None, *pieces])
    if before is None or piece.parts != before.parts
  ]
  return WeightSchedule(tuple(changes))


def check_schedule_edit(
  saved: ScheduleConfig, new: ScheduleConfig, step: int
) -> None:
  """Refuses new weights for steps that are already trained.

  They would change which records those steps have read, and so where each
  source stands now.

  Args:
    saved: config that the run was trained with.
    new: config that it shall go on with.
    step: number of steps trained so far.

  Raises:
    ValueError: the weights of a step below `step` differ.
  """
  old, edited = parse_schedule(saved), parse_schedule(new)
  starts = {p.start for p in (*old.pieces, *edited.pieces) if p.start < step}
  for start in sorted(starts):
    before, after = old.at(start), edited.at(start)
    # The cycle begins anew with each piece.
    if before != after:
      raise ValueError(
        f"the weights from step {start} are {_shown(after)}, but this run has "
        f"trained {step} steps, these with {_shown(before)}: leave the past as "
        f'it was and add a piece "{step}" or later, or start a new run'
      )


def _step(key: str | int) -> int:
  """A piece's first step."""
  is_text = isinstance(key, str) and key.isascii() and key.isdigit()
  is_whole = isinstance(key, int) and not isinstance(key, bool) and key >= 0
  if not (is_text or is_whole):
    raise ValueError(
      f"the weights name the step {key!r}: give a whole number, 0 or more"
    )
  return int(key)


def _check_names(
  weights: Mapping[int, Mapping[str, float]], known_names: Collection[str]
) -> None:
  for step, table in weights.items():
    check_known(table, known_names, what=f"the weights from step {step} name")
  named = {name for table in weights.values() for name in table}
  if forgotten := sorted(set(known_names) - named):
    raise ValueError(
      f"the weights name {sorted(named)} and never {forgotten}: give each a "
      "weight, 0 to leave it out"
    )


def _parts(
  step: int, table: Mapping[str, float]
) -> tuple[tuple[str, int], ...]:
  """Positive weights as whole numbers without a common divisor."""
  for name, weight in table.items():
    is_number = isinstance(weight, numbers.Real) and not isinstance(
      weight, bool
    )
    if not is_number or not math.isfinite(weight) or weight < 0:
      raise ValueError(
        f"from step {step} the weight of {name!r} is {weight!r}: give a finite "
        "number, 0 or more"
      )
  # 0.1 shall mean a tenth, not the nearest binary fraction.
  shares = {
    name: fractions.Fraction(str(weight))
    for name, weight in sorted(table.items())
    if weight > 0
  }
  if not shares:
    raise ValueError(
      f"from step {step} no source has a positive weight: give one to some"
    )
  scale = math.lcm(*(share.denominator for share in shares.values()))
  whole = [int(share * scale) for share in shares.values()]
  divisor = math.gcd(*whole)
  if sum(whole) // divisor > MAX_CYCLE:
    total = sum(shares.values())
    rounded = {
      name: max(1, round(share * _SUGGESTED_TOTAL / total))
      for name, share in shares.items()
    }
    raise ValueError(
      f"the weights from step {step} are {dict(table)}, whose proportions take "
      f"a cycle of more than {MAX_CYCLE} records: round them, for example to "
      f"{rounded}"
    )
  return tuple(
    (name, part // divisor) for name, part in zip(shares, whole, strict=True)
  )


def _shown(piece: Piece) -> str:
  return f"{dict(piece.parts)} since step {piece.start}"


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
