"""The bootstrap against the central limit theorem and small closed forms."""

import numpy as np
import pytest

from ddit_jax.evaluation.bootstrap import mean_interval


def test_interval_has_the_width_the_central_limit_theorem_gives():
  draw = np.random.default_rng(0)
  values = draw.normal(size=2000)
  estimate = mean_interval(values, resamples=4000)
  half = 1.96 * values.std() / np.sqrt(2000)
  assert estimate.value == pytest.approx(values.mean())
  # Measured: ends off by 4.6 % and 1.3 % of the half width.
  assert estimate.low == pytest.approx(values.mean() - half, abs=0.06 * half)
  assert estimate.high == pytest.approx(values.mean() + half, abs=0.06 * half)


def test_interval_of_constant_values_is_a_point():
  estimate = mean_interval([0.25] * 7, groups=list("aabbbcd"))
  assert (estimate.value, estimate.low, estimate.high) == (0.25,) * 3
  assert estimate.n == 7


def test_repeating_each_item_inside_its_group_changes_nothing():
  draw = np.random.default_rng(1)
  values = draw.random(60)
  once = mean_interval(values, seed=3)
  fourfold = mean_interval(
    np.repeat(values, 4), groups=np.repeat(np.arange(60), 4).tolist(), seed=3
  )
  assert fourfold.low == pytest.approx(once.low, abs=1e-12)
  assert fourfold.high == pytest.approx(once.high, abs=1e-12)
  naive = mean_interval(np.repeat(values, 4), seed=3)
  # Ignoring the groups would make us twice as sure as we may be.
  narrowing = (once.high - once.low) / (naive.high - naive.low)
  assert narrowing == pytest.approx(2, abs=0.2)


def test_two_unequal_groups_give_the_three_means_they_can():
  # Groups (1, 1, 1) and (0): draws aa, ab, bb have means 1, 3/4, 0, with
  # chances 1/4, 1/2, 1/4.
  values, groups = [1, 1, 1, 0], ["a", "a", "a", "b"]
  middle = mean_interval(values, groups=groups, level=0.4)
  assert (middle.value, middle.low, middle.high) == (0.75, 0.75, 0.75)
  whole = mean_interval(values, groups=groups, level=0.9)
  assert (whole.low, whole.high) == (0.0, 1.0)


def test_seed_decides_the_interval_and_blocks_do_not(monkeypatch):
  values = np.random.default_rng(2).random(50)
  first = mean_interval(values, seed=5)
  assert mean_interval(values, seed=5) == first
  assert mean_interval(values, seed=6) != first
  monkeypatch.setattr(
    "ddit_jax.evaluation.bootstrap._DRAWS_PER_BLOCK", 50 * 700
  )
  assert mean_interval(values, seed=5) == first


@pytest.mark.parametrize(
  ("values", "options", "message"),
  [
    ([], {}, "at least one score"),
    ([[1.0]], {}, "shape"),
    ([1.0, float("nan")], {}, "1 of 2 values are not finite"),
    ([1.0, 2.0], {"groups": ["a"]}, "2 values, 2 weights, 1 groups"),
    ([1.0], {"weights": [-1.0]}, "weights must be"),
    ([1.0], {"weights": [1.0, 2.0]}, "1 values, 2 weights"),
    ([1.0], {"level": 1.0}, "level in"),
    ([1.0], {"resamples": 0}, "resamples must be at least 1"),
  ],
)
def test_bad_input_is_named(values, options, message):
  with pytest.raises(ValueError, match=message):
    mean_interval(values, **options)


def test_weights_turn_the_mean_into_a_ratio_of_sums():
  draw = np.random.default_rng(4)
  stated = draw.integers(0, 5, 80)
  matched = draw.integers(0, stated + 1)
  precision = np.divide(matched, stated, out=np.zeros(80), where=stated > 0)
  estimate = mean_interval(precision, weights=stated, seed=1)
  assert estimate.value == pytest.approx(matched.sum() / stated.sum())
  slow = []
  redraw = np.random.default_rng(1)
  for _ in range(2000):
    rows = redraw.integers(80, size=80)
    slow.append(matched[rows].sum() / stated[rows].sum())
  assert estimate.low == pytest.approx(np.quantile(slow, 0.025), abs=1e-12)
  assert estimate.high == pytest.approx(np.quantile(slow, 0.975), abs=1e-12)
  nothing = mean_interval([0.0, 0.0], weights=[0, 0])
  assert (nothing.value, nothing.low, nothing.high) == (0, 0, 0)


def test_strata_count_equally_and_are_drawn_apart():
  # 90 sure successes and 10 coin flips: only the flips vary.
  flips = [0, 1] * 5
  estimate = mean_interval(
    [1] * 90 + flips, strata=["easy"] * 90 + ["hard"] * 10, level=0.9
  )
  alone = mean_interval(flips, level=0.9)
  assert estimate.value == 0.75
  # The quantiles of a binomial of 10, halved and shifted.
  assert (alone.low, alone.high) == (0.2, 0.8)
  assert (estimate.low, estimate.high) == pytest.approx((0.6, 0.9))
