"""What scenes hold: nothing held out, or exactly what was asked for."""

import collections
import itertools

import numpy as np
import pytest

from ddit_jax.digits import scenes
from ddit_jax.digits.world import WORLDS

HELD_OUT_DIGITS = {
  *((0, 5), (1, 4), (2, 3)),
  *((1, 9), (2, 8), (3, 7), (4, 6), (6, 9), (7, 8)),
}
HELD_OUT_COUNTS = {(3, 2), (1, 3), (8, 3), (6, 4)}


def held_out_parts(drawn):
  """The held-out compositions in a scene, by a second reading of the rule."""
  digits = [digit for digit, _ in drawn]
  colored = [(d, c) for d, c in drawn if (3 * d + c) % 5 == 0]
  pairs = HELD_OUT_DIGITS & set(itertools.combinations(sorted(set(digits)), 2))
  counts = HELD_OUT_COUNTS & set(collections.Counter(digits).items())
  return colored, sorted(pairs), sorted(counts)


def draw(kind, rng, **options):
  return scenes.draw_contents(kind, rng, max_objects=4, **options)


@pytest.mark.parametrize("kind", scenes.SCENE_KINDS)
@pytest.mark.parametrize("are_partners", [None, False, True])
def test_seen_scenes_hold_nothing_held_out(kind, are_partners):
  rng = np.random.default_rng(0)
  for _ in range(1000):
    drawn = draw(kind, rng, is_held_out=False, are_partners=are_partners)
    assert held_out_parts(drawn) == ([], [], []), drawn


@pytest.mark.parametrize("kind", scenes.SCENE_KINDS)
def test_held_out_scenes_hold_just_the_composition_asked_for(kind):
  rng = np.random.default_rng(1)
  place = {"single": 0, "color_attr": 0, "counting": 2}.get(kind, 1)
  for _ in range(1000):
    parts = held_out_parts(draw(kind, rng, is_held_out=True))
    assert [len(part) for part in parts] == [int(i == place) for i in range(3)]


def test_every_composition_comes_up():
  rng = np.random.default_rng(2)
  seen = {draw("single", rng, is_held_out=False)[0] for _ in range(2000)}
  held_out = {draw("single", rng, is_held_out=True)[0] for _ in range(500)}
  assert len(seen) == 64 and len(held_out) == 16
  counted = {
    (drawn[0][0], len(drawn))
    for is_held_out in (False, True)
    for drawn in (
      draw("counting", rng, is_held_out=is_held_out) for _ in range(600)
    )
  }
  assert counted == set(itertools.product(range(10), (2, 3, 4)))


def test_kinds_hold_the_right_number_of_things():
  rng = np.random.default_rng(3)
  sizes = {
    kind: {len(draw(kind, rng, is_held_out=False)) for _ in range(300)}
    for kind in scenes.SCENE_KINDS
  }
  assert sizes == {
    "single": {1},
    "two": {2},
    "counting": {2, 3, 4},
    "position": {2},
    "color_attr": {2},
    "several": {3, 4},
  }


def test_partners_are_forced_or_forbidden():
  rng = np.random.default_rng(4)
  for kind in ("two", "position", "color_attr", "several"):
    for wish in (True, False):
      for _ in range(200):
        drawn = draw(kind, rng, is_held_out=False, are_partners=wish)
        digits = {digit for digit, _ in drawn}
        assert wish == any((d + 3) % 10 in digits for d in digits)


def test_color_attr_has_two_digits_in_two_colors():
  rng = np.random.default_rng(5)
  for is_held_out in (False, True):
    for _ in range(300):
      first, second = draw("color_attr", rng, is_held_out=is_held_out)
      assert first[0] != second[0] and first[1] != second[1]


def test_kinds_fit_the_world():
  rng = np.random.default_rng(6)
  assert scenes.scene_kinds(WORLDS["one_digit"]) == ("single",)
  assert scenes.scene_kinds(WORLDS["scenes_32"]) == scenes.SCENE_KINDS
  assert scenes.draw_kind(WORLDS["one_digit"], rng) == "single"
  drawn = collections.Counter(
    scenes.draw_kind(WORLDS["scenes_32"], rng) for _ in range(6000)
  )
  # A fifth single and 16 % of each other kind; 4 standard errors are 0.021.
  assert abs(drawn["single"] / 6000 - 0.2) < 0.021
  for kind in scenes.SCENE_KINDS[1:]:
    assert abs(drawn[kind] / 6000 - 0.16) < 0.021
