"""Worlds have room for what they promise."""

import pytest

from ddit_jax.digits.world import WORLDS, World


def test_the_three_worlds():
  one = WORLDS["one_digit"]
  assert (one.canvas, one.digit_size, one.jitter_px) == (16, 13, 0.5)
  assert one.is_one_digit
  for name, canvas, size, gap in (
    ("scenes_32", 32, 10, 3),
    ("scenes_48", 48, 16, 4),
  ):
    world = WORLDS[name]
    assert (world.canvas, world.digit_size, world.gap) == (canvas, size, gap)
    assert world.max_objects == 4 and not world.is_one_digit
    assert world.saturation == 0.75


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"max_objects": 5}, "max_objects is 5"),
    ({"max_objects": 0}, "max_objects is 0"),
    ({"digit_size": 7}, "digit_size is 7"),
    ({"saturation": 1.5}, "saturation is 1.5"),
    ({"jitter_px": -1.0}, "jitter_px is -1.0"),
    ({"jitter_px": 2.0}, "need at least 17"),
    ({"max_objects": 2}, "need at least 29"),
  ],
)
def test_impossible_worlds_are_refused(change, message):
  sizes = {"canvas": 16, "digit_size": 13, "max_objects": 1} | change
  with pytest.raises(ValueError, match=message):
    World(**sizes)
