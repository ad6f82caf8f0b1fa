"""A fixed cycle of names in given proportions, spread as evenly as can be."""

import array
import collections
import itertools
from collections.abc import Mapping

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
