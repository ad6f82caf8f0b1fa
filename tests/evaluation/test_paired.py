"""Paired tests against enumeration and by hand."""

import itertools

import numpy as np
import pytest

from ddit_jax.evaluation.paired import paired_difference


def exact_p_value(shares):
  """Over all assignments of the two runs to the groups."""
  signs = itertools.product((-1, 1), repeat=len(shares))
  sums = np.array([np.dot(one, shares) for one in signs])
  return np.mean(np.abs(sums) >= abs(np.sum(shares)) - 1e-12)


def test_p_value_agrees_with_all_sign_flips():
  rng = np.random.default_rng(0)
  first, second = rng.random(9), rng.random(9) + 0.2
  result = paired_difference(first, second)
  # 10,000 flips of 512: a standard error of 0.003 at this p-value.
  expected = exact_p_value(second - first)
  assert 0.02 < expected < 0.3
  assert result.p_value == pytest.approx(expected, abs=0.015)
  assert result.difference.value == pytest.approx((second - first).mean())


def test_items_of_a_group_flip_together():
  # Twelve items better, but all of one image, and one image of three worse.
  first = np.zeros(15)
  second = np.array([1.0] * 12 + [-1.0] * 3)
  groups = ["a"] * 12 + ["b"] * 3
  # Two groups: every flip has a sum of 9 or 15.
  assert paired_difference(first, second, groups=groups).p_value == 1
  assert paired_difference(first, second).p_value < 0.05


def test_strata_weigh_the_same():
  # One item of the stratum x weighs as much as the three of y.
  result = paired_difference([0, 0, 0, 0], [1, 0, 0, 0], strata=[*"xyyy"])
  assert result.difference.value == 0.5


def test_equal_runs_do_not_differ():
  result = paired_difference([0.5, 1, 0], [0.5, 1, 0])
  assert result.p_value == 1 and result.difference.value == 0
  assert (result.better, result.worse) == (0, 0)


def test_mcnemar_is_the_binomial_of_the_discordant_items():
  first = [1] * 5 + [0] * 9 + [1] * 2
  second = [1] * 5 + [0] * 1 + [1] * 8 + [0] * 2
  result = paired_difference(first, second)
  assert (result.better, result.worse) == (8, 2)
  # 2 x (C(10, 0) + C(10, 1) + C(10, 2)) / 1,024.
  assert result.mcnemar_p_value == pytest.approx(2 * 56 / 1024)
  assert paired_difference([0.1, 0.2], [0.3, 0.2]).mcnemar_p_value is None


def test_other_lengths_raise():
  with pytest.raises(ValueError, match="2 scores of one run, 1 of the other"):
    paired_difference([1, 2], [1])
