"""Relations of offsets read off a drawing; y points down."""

import pytest

from ddit_jax.digits import world


@pytest.mark.parametrize(
  ("offset", "expected"),
  [
    ((-10, 0), "left of"),
    ((10, 4), "right of"),
    ((3, -10), "above"),
    ((-5, 10), "below"),
    ((10, 6), None),
    ((-7, -7), None),
    ((0, 0), None),
  ],
)
def test_clear_relation(offset, expected):
  assert world.clear_relation(*offset) == expected


def test_the_other_way_round_is_the_opposite():
  for dx, dy in ((9, 1), (-9, 1), (2, 9), (2, -9)):
    there = world.clear_relation(dx, dy)
    assert world.clear_relation(-dx, -dy) == world.OPPOSITES[there]


def test_two_loose_relations_hold_on_a_diagonal_and_one_on_an_axis():
  assert world.loose_relations(-5, -5) == ("left of", "above")
  assert world.loose_relations(5, 1) == ("right of",)
  assert world.loose_relations(0, 0) == ()
