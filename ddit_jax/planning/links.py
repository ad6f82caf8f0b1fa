"""Times of collectives from the stated rates of links."""

import dataclasses
import math
from collections.abc import Iterable, Sequence

from ddit_jax.planning.chips import Chip
from ddit_jax.planning.collectives import Collective

MAX_CHIPS = 2**16

# Along this many chips a torus closes: cubes of four, or a whole pod's side.
_CLOSED = {2: 16, 3: 4}


@dataclasses.dataclass(frozen=True, kw_only=True)
class _LinkTimes:
  """Seconds that the collectives of one step take.

  Attributes:
    total: of all, one after the other.
    exposed: of these, what the computations between start and end of each
      do not cover.
    exposed_bytes: whole arrays' bytes, in proportion to the exposed time.
  """

  total: float
  exposed: float
  exposed_bytes: float


def link_times(
  found: Iterable[Collective], chip: Chip, shape: Sequence[int]
) -> _LinkTimes | None:
  """Times of a program's collectives on a slice of TPUs.

  Args:
    found: the program's collectives.
    chip: the figures of one device.
    shape: of the torus in chips.

  Returns:
    None if the table has no rates for the chip.
  """
  if chip.link_bytes is None or chip.clock_hz is None:
    return None
  total = exposed = exposed_bytes = 0.0
  for one in found:
    seconds = one.sent_bytes / _rate(one, chip, shape)
    left = max(seconds - one.hidden_cycles / chip.clock_hz, 0.0)
    total += one.runs * seconds
    exposed += one.runs * left
    if seconds:
      exposed_bytes += one.runs * one.bytes * left / seconds
  return _LinkTimes(total=total, exposed=exposed, exposed_bytes=exposed_bytes)


def _rate(one: Collective, chip: Chip, shape: Sequence[int]) -> float:
  """Bytes a second into one device of a group.

  A group of n spans the fewest axes of the torus that hold n chips; along
  each a device has two links if the axis closes to a ring, else one. The
  compiler's algorithm may use fewer.
  """
  links, held = 0, 1
  for side in sorted(shape, reverse=True):
    if held >= (one.group_size or 2):
      break
    held *= side
    links += 2 if side % _CLOSED[chip.torus_axes] == 0 else 1
  links = max(links, 1)
  if one.links is not None:
    links = min(links, one.links)
  return links * chip.link_bytes / chip.devices_per_chip


def torus_shape(text: str) -> tuple[int, ...]:
  """ "4x4x4" -> (4, 4, 4).

  Raises:
    ValueError: not positive integers joined by "x".
  """
  sides = text.split("x")
  if not all(side.isdecimal() and int(side) for side in sides):
    raise ValueError(f"{text!r} is no shape: write the sides, e.g. 4x4x4")
  shape = tuple(map(int, sides))
  if math.prod(shape) > MAX_CHIPS:
    raise ValueError(
      f"{text!r} has {math.prod(shape)} chips, above {MAX_CHIPS:,}"
    )
  return shape
