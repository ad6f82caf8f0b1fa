"""Exact proportions, never a whole record off, at any place."""

from fractions import Fraction

import pytest
from hypothesis import example as also
from hypothesis import given, settings
from hypothesis import strategies as st

from ddit_jax.data.mixture import MAX_CYCLE, Interleave

PARTS = st.lists(st.integers(1, 30), min_size=1, max_size=7).map(
  lambda numbers: {f"s{i}": number for i, number in enumerate(numbers)}
)


def names(parts, count):
  mixed = Interleave(parts)
  return [mixed.locate(place)[0] for place in range(count)]


def test_small_cycles_by_hand():
  assert names({"a": 1}, 3) == ["a", "a", "a"]
  assert names({"a": 1, "b": 1}, 4) == ["a", "b", "a", "b"]
  assert names({"a": 3, "b": 1}, 8) == [*"aaba", *"aaba"]


@settings(deadline=None, max_examples=150)
@given(parts=PARTS)
# A large share beside many small ones, where sorting by ideal places fails.
@also(parts={"big": 30, **{f"s{i}": 1 for i in range(30)}})
def test_counts_stay_within_one_of_their_share(parts):
  mixed, total = Interleave(parts), sum(parts.values())
  counts = dict.fromkeys(parts, 0)
  bound = 1 - Fraction(1, 2 * len(parts) - 2) if len(parts) > 1 else 0
  for place in range(2 * total):
    assert mixed.counts(place) == counts
    name, earlier = mixed.locate(place)
    assert earlier == counts[name]
    counts[name] += 1
    for key, part in parts.items():
      error = abs(Fraction(part * (place + 1), total) - counts[key])
      assert error <= bound
    assert sum(counts.values()) == place + 1
  assert counts == {name: 2 * part for name, part in parts.items()}


@settings(deadline=None, max_examples=50)
@given(parts=PARTS, place=st.integers(0, 10**15))
def test_far_places_agree_with_their_counts(parts, place):
  mixed = Interleave(parts)
  before, after = mixed.counts(place), mixed.counts(place + 1)
  name, earlier = mixed.locate(place)
  assert sum(before.values()) == place
  assert earlier == before[name]
  assert after == before | {name: earlier + 1}


@pytest.mark.parametrize(
  "parts", [{}, {"a": 0}, {"a": 2, "b": -1}, {"a": MAX_CYCLE, "b": 1}]
)
def test_senseless_parts_are_refused(parts):
  with pytest.raises(
    ValueError, match="must be positive and add up to at most"
  ):
    Interleave(parts)
