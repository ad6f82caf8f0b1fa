"""Cells stay on the canvas, apart, and in their relation."""

import numpy as np
import pytest

from ddit_jax.digits import scenes
from ddit_jax.digits.world import WORLDS

LARGE = [WORLDS["scenes_32"], WORLDS["scenes_48"]]


@pytest.mark.parametrize("world", LARGE)
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_cells_lie_on_the_canvas_with_a_gap(world, count):
  rng = np.random.default_rng(0)
  gap = {32: 3, 48: 4}[world.canvas]
  half = world.digit_size / 2
  for _ in range(60):
    centers = scenes.draw_centers(count, world, rng)
    assert centers.shape == (count, 2)
    assert (centers >= half).all() and (centers <= world.canvas - half).all()
    for i in range(count):
      for j in range(i):
        distances = np.abs(centers[i] - centers[j]) - world.digit_size
        assert distances.max() >= gap


def test_one_digit_strays_evenly_around_the_middle():
  rng = np.random.default_rng(1)
  world = WORLDS["one_digit"]
  centers = np.array(
    [scenes.draw_centers(1, world, rng)[0] for _ in range(4000)]
  )
  assert (np.abs(centers - 8) <= 0.5).all()
  # Uniform on +-0.5: deviation 0.2887, its standard error 0.0020 here.
  np.testing.assert_allclose(centers.std(axis=0), 0.2887, atol=0.01)
  np.testing.assert_allclose(centers.mean(axis=0), 8, atol=0.02)


@pytest.mark.parametrize(
  ("relation", "axis", "sign"),
  [
    ("left of", 0, -1),
    ("right of", 0, 1),
    ("above", 1, -1),
    ("below", 1, 1),
  ],
)
def test_a_relation_is_kept(relation, axis, sign):
  rng = np.random.default_rng(2)
  for _ in range(50):
    centers = scenes.draw_centers(2, LARGE[0], rng, relation=relation)
    offset = centers[0] - centers[1]
    assert sign * offset[axis] >= 2 * abs(offset[1 - axis])


def test_any_relation_means_every_relation_but_no_diagonal():
  rng = np.random.default_rng(3)
  found = set()
  for _ in range(100):
    centers = scenes.draw_centers(
      2, LARGE[0], rng, relation=scenes.ANY_RELATION
    )
    dx, dy = centers[0] - centers[1]
    assert max(abs(dx), abs(dy)) >= 2 * min(abs(dx), abs(dy))
    found.add(
      (abs(dx) > abs(dy), bool(dx > 0 if abs(dx) > abs(dy) else dy > 0))
    )
  assert len(found) == 4
