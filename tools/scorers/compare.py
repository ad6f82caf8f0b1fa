"""Judges an expected output figure by figure."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

# A tolerance of 0: as written in the file.
EXACT = 0.0
# Sums of floats in another order.
ROUNDING = 1e-12


class _Absent:
  def __repr__(self) -> str:
    return "nothing"


ABSENT = _Absent()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Comparison:
  """An expected output and ours.

  Attributes:
    name: of the file, and of the part of it.
    expected: JSON.
    got: the same, as ours; a figure that is not in it fails.
    tolerance: of floats, relative to the expected value and at least 1.
  """

  name: str
  expected: Any
  got: Any
  tolerance: float = EXACT


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figure:
  """One compared value."""

  name: str
  expected: Any
  got: Any
  is_passed: bool

  def line(self) -> str:
    """E.g. "gqa/expected.json accuracy: expected 46.8, got 46.8: pass"."""
    verdict = "pass" if self.is_passed else "FAIL"
    return (
      f"{self.name}: expected {self.expected!r}, got {self.got!r}: {verdict}"
    )


def figures(comparison: Comparison) -> Iterator[Figure]:
  """Every value of the expected output, and values that only ours has.

  Whole objects may be ours alone: a scorer's output can have parts that were
  not recorded.
  """
  yield from _compared(
    comparison.name, comparison.expected, comparison.got, comparison.tolerance
  )


def unread(
  name: str, body: Mapping[str, Any], *read: str
) -> Iterator[Comparison]:
  """Comparisons that fail, for the entries of a file that nothing reads."""
  if rest := {key: value for key, value in body.items() if key not in read}:
    yield Comparison(name=name, expected=rest, got={})


def _compared(
  name: str, expected: Any, got: Any, tolerance: float
) -> Iterator[Figure]:
  if isinstance(expected, dict) and isinstance(got, dict) and expected:
    for key, value in expected.items():
      mine = got.get(key, ABSENT)
      yield from _compared(f"{name}/{key}", value, mine, tolerance)
    for key, value in got.items():
      if key not in expected and not isinstance(value, dict):
        yield from _compared(f"{name}/{key}", ABSENT, value, tolerance)
  elif isinstance(expected, list) and isinstance(got, list) and expected:
    rows = itertools.zip_longest(expected, got, fillvalue=ABSENT)
    for place, (value, mine) in enumerate(rows):
      yield from _compared(f"{name}/{place}", value, mine, tolerance)
  else:
    yield Figure(
      name=name,
      expected=expected,
      got=got,
      is_passed=_is_equal(expected, got, tolerance),
    )


def _is_equal(expected: Any, got: Any, tolerance: float) -> bool:
  if _is_number(expected) and _is_number(got):
    return abs(got - expected) <= tolerance * max(1.0, abs(expected))
  return type(expected) is type(got) and expected == got


def _is_number(value: Any) -> bool:
  return isinstance(value, (int, float)) and not isinstance(value, bool)
