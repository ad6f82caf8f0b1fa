"""Distances of features against closed forms and loops."""

import numpy as np
import pytest

from ddit_jax.evaluation.frechet import (
  Moments,
  frechet_distance,
  kernel_distance,
)


def test_diagonal_gaussians_have_a_closed_form():
  first = Moments(mean=np.array([0.0, 1.0]), covariance=np.diag([4.0, 9.0]))
  second = Moments(mean=np.array([3.0, 1.0]), covariance=np.diag([1.0, 16.0]))
  # 3^2 + (2 - 1)^2 + (3 - 4)^2.
  result = frechet_distance(first, second)
  assert result.value == pytest.approx(11, rel=1e-12)
  assert not result.used_offset


SHIFT = np.array([1.0, 2.0, 2.0])


def test_a_shift_costs_its_square():
  rows = np.random.default_rng(0).normal(size=(50, 3))
  distance = frechet_distance(Moments.of(rows), Moments.of(rows + SHIFT))
  assert distance.value == pytest.approx(9, rel=1e-10)


def test_moments_are_unbiased():
  assert Moments.of(np.array([[0.0], [2.0]])).covariance == [[2]]


def test_kernel_distance_of_whole_sets():
  rng = np.random.default_rng(1)
  first, second = rng.normal(size=(6, 4)), rng.normal(size=(6, 4)) + 1

  def kernel(x, y):
    return (x @ y / 4 + 1) ** 3

  pairs = [(i, j) for i in range(6) for j in range(6)]
  within = sum(
    kernel(rows[i], rows[j])
    for rows in (first, second)
    for i, j in pairs
    if i != j
  )
  across = sum(kernel(first[i], second[j]) for i, j in pairs)
  expected = within / 30 - 2 * across / 36
  assert kernel_distance(first, second) == pytest.approx(expected, rel=1e-12)


def test_kernel_distance_of_subsets_is_seeded_and_near_the_whole():
  rng = np.random.default_rng(2)
  first, second = rng.normal(size=(60, 2)), rng.normal(size=(50, 2)) + 1
  scores = {seed: kernel_distance(first, second, seed=seed) for seed in (0, 1)}
  assert scores[0] == kernel_distance(first, second)
  assert scores[0] != scores[1]
  # Subsets of 50 of 60 rows: 0.3 % apart measured.
  assert scores[0] == pytest.approx(scores[1], rel=0.05)


def test_bad_features_raise():
  two, three = (Moments.of(np.eye(n)) for n in (2, 3))
  with pytest.raises(ValueError, match="2 and 3 dimensions"):
    frechet_distance(two, three)
  with pytest.raises(ValueError, match="two rows, got 1"):
    kernel_distance(np.ones((1, 2)), np.ones((5, 2)))
