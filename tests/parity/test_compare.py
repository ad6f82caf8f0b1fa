"""The verdict on one array, on cases worked out by hand."""

import math

import numpy as np
import pytest
from parity.compare import compare, not_checked
from parity.golden_set import ArrayEntry


def entry(dtype="float32", **fields):
  return ArrayEntry(
    case="c", name="x", shape=(), dtype=dtype, role="output", **fields
  )


def test_errors_and_the_share_of_the_tolerance():
  reference = np.array([10.0, 0.0, -2.0])
  got = np.array([10.5, 0.1, -2.0])
  check = compare(entry(atol=0.5, rtol=0.1), reference, got)
  # |10.5 - 10| of 0.5 + 1; |0.1 - 0| of 0.5.
  assert check.used == pytest.approx(0.5 / 1.5)
  assert check.is_passed
  assert check.max_abs == 0.5 and check.max_rel == 0.05
  assert check.rel_l2 == pytest.approx(math.sqrt(0.26) / math.sqrt(104))


@pytest.mark.parametrize(("error", "is_passed"), [(1.0, True), (1.001, False)])
def test_the_tolerance_itself_passes(error, is_passed):
  check = compare(entry(atol=1.0), np.zeros(2), np.array([0.0, error]))
  assert check.is_passed == is_passed and check.used == error


def test_whole_numbers_must_be_equal():
  reference = np.array([5, 7], np.int32)
  exact = entry("int32", atol=9.0)
  assert compare(exact, reference, np.array([5, 7])).used == 0
  check = compare(exact, reference, np.array([5, 8]))
  assert not check.is_passed and check.max_abs == 1


def test_a_share_of_the_entries_may_miss():
  reference = np.zeros(200)
  got = np.zeros(200)
  got[:2] = 5.0
  got[2] = 0.5
  check = compare(entry(atol=1, max_mismatch_fraction=0.01), reference, got)
  assert check.is_passed and check.used == 0.5 and check.max_abs == 5
  got[3] = 5.0
  check = compare(entry(atol=1, max_mismatch_fraction=0.01), reference, got)
  assert not check.is_passed and check.used == 5


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("side", ["got", "reference", "both"])
def test_numbers_that_are_none_never_pass(bad, side):
  reference, got = np.ones(3), np.ones(3)
  if side != "reference":
    got[1] = bad
  if side != "got":
    reference[1] = bad
  assert not compare(entry(atol=1.0, rtol=1.0), reference, got).is_passed


def test_another_shape_fails_even_if_it_broadcasts():
  check = compare(entry(atol=1.0), np.zeros((2, 1)), np.zeros((2,)))
  assert not check.is_passed
  assert check.note == "ours has shape (2,), not (2, 1)"


def test_scalars_and_zero_references():
  assert compare(entry(), np.float32(2), np.float32(2)).is_passed
  check = compare(entry(), np.zeros(2), np.array([0.0, 1e-9]))
  assert not check.is_passed and check.rel_l2 == 1


def test_the_worst_of_several_readings_counts():
  reference = np.zeros(2)
  readings = {"near": np.full(2, 0.1), "far": np.full(2, 0.3)}
  check = compare(entry(atol=1.0), reference, readings)
  assert (check.label, check.used) == ("far", 0.3)
  readings["odd"] = np.zeros(3)
  check = compare(entry(atol=1.0), reference, readings)
  assert check.label == "odd" and not check.is_passed


def test_the_strict_bound_is_a_second_opinion():
  reference, got = np.full(4, 2.0), np.full(4, 2.1)
  assert compare(entry(atol=1), reference, got).is_strict is None
  for bound, is_strict in ((0.06, True), (0.04, False)):
    check = compare(entry(atol=1, strict_rel_l2=bound), reference, got)
    assert check.is_passed and check.is_strict == is_strict


def test_what_was_not_checked_has_no_numbers():
  check = not_checked(entry(), "reason")
  assert not check.is_passed and check.note == "reason"
  assert math.isnan(check.max_abs) and math.isinf(check.used)
