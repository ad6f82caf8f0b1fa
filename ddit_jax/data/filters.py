"""Which images and captions an index leaves out."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from ddit_jax.data.image_headers import MAX_PIXELS, ImageSize
from ddit_jax.data.known_names import check_known


@dataclasses.dataclass(frozen=True, kw_only=True)
class Filters:
  """Applied once, when an index is built; what goes is counted by name.

  Attributes:
    max_ratio: longest to shortest side, at most; infinity keeps all.
    min_short_side: of the image, in pixels; 0 keeps all.
    drop_empty_captions: True leaves out records whose texts are all blank.
  """

  max_ratio: float = 4.0
  min_short_side: int = 256
  drop_empty_captions: bool = True

  def __post_init__(self):
    _require_number("max_ratio", self.max_ratio, least=1.0)
    _require_number("min_short_side", self.min_short_side, least=0)
    if not isinstance(self.drop_empty_captions, bool):
      raise ValueError(
        "filters.drop_empty_captions is True or False, not "
        f"{self.drop_empty_captions!r}"
      )

  @property
  def needs_size(self) -> bool:
    """Whether the ratio or the sides matter."""
    return math.isfinite(self.max_ratio) or self.needs_sides

  @property
  def needs_sides(self) -> bool:
    """Whether a ratio alone does not suffice."""
    return self.min_short_side > 1

  def refused_size(self, size: ImageSize) -> str | None:
    """ "image_too_large", "short_side", "ratio" or None, which is kept."""
    short, long = min(size), max(size)
    if short * long > MAX_PIXELS:
      return "image_too_large"
    if short < self.min_short_side:
      return "short_side"
    return self.refused_ratio(long / short)

  def refused_ratio(self, ratio: float) -> str | None:
    """ "ratio" or None, for sides of which only the quotient is known."""
    return "ratio" if max(ratio, 1 / ratio) > self.max_ratio else None


def with_hint(left_out: Mapping[str, int]) -> str:
  """What an index left out, and how to keep it if filters are the cause."""
  counts = ", ".join(f"{n} {why}" for why, n in left_out.items())
  if not {"short_side", "ratio"} & left_out.keys():
    return counts
  values = f"{Filters.min_short_side} and {Filters.max_ratio}"
  return (
    f"{counts} (filters.min_short_side and filters.max_ratio of the source "
    f"decide, {values} unless set)"
  )


def filters_from(spec: Mapping[str, Any] | Filters | None) -> Filters:
  """Filters from a config's mapping; None gives the defaults.

  Raises:
    ValueError: an unknown key, with the nearest one, or a bad value.
  """
  if isinstance(spec, Filters):
    return spec
  try:
    values = dict(spec or {})
  except (TypeError, ValueError):
    raise ValueError(
      f"filters must be a mapping such as {{'max_ratio': 4.0}}, not {spec!r}"
    ) from None
  known = [field.name for field in dataclasses.fields(Filters)]
  check_known(values, known, what="filters has no key")
  return Filters(**values)


def _require_number(name: str, value: Any, *, least: float) -> None:
  is_number = isinstance(value, int | float) and not isinstance(value, bool)
  # A comparison with NaN is False.
  if not is_number or not value >= least:
    raise ValueError(
      f"filters.{name} must be a number of at least {least}, not {value!r}"
    )
