"""Scenes: what they hold, where, and by the rules of training."""

import collections
import itertools

import numpy as np
import pytest

from ddit_jax.digits import scenes
from ddit_jax.digits.world import WORLDS, handwriting

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


def contents(kind, rng, **options):
  return scenes._draw_contents(kind, rng, max_objects=4, **options)


@pytest.mark.parametrize("kind", scenes.SCENE_KINDS)
@pytest.mark.parametrize("are_partners", [None, False, True])
def test_seen_scenes_hold_nothing_held_out(kind, are_partners):
  rng = np.random.default_rng(0)
  for _ in range(1000):
    drawn = contents(kind, rng, is_held_out=False, are_partners=are_partners)
    assert held_out_parts(drawn) == ([], [], []), drawn


@pytest.mark.parametrize("kind", scenes.SCENE_KINDS)
def test_held_out_scenes_hold_just_the_composition_asked_for(kind):
  rng = np.random.default_rng(1)
  place = {"single": 0, "color_attr": 0, "counting": 2}.get(kind, 1)
  for _ in range(1000):
    parts = held_out_parts(contents(kind, rng, is_held_out=True))
    assert [len(part) for part in parts] == [int(i == place) for i in range(3)]


def test_every_composition_comes_up():
  rng = np.random.default_rng(2)
  seen = {contents("single", rng, is_held_out=False)[0] for _ in range(2000)}
  held_out = {contents("single", rng, is_held_out=True)[0] for _ in range(500)}
  assert len(seen) == 64 and len(held_out) == 16
  counted = {
    (drawn[0][0], len(drawn))
    for is_held_out in (False, True)
    for drawn in (
      contents("counting", rng, is_held_out=is_held_out) for _ in range(600)
    )
  }
  assert counted == set(itertools.product(range(10), (2, 3, 4)))


def test_kinds_hold_the_right_number_of_things():
  rng = np.random.default_rng(3)
  sizes = {
    kind: {len(contents(kind, rng, is_held_out=False)) for _ in range(300)}
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
        drawn = contents(kind, rng, is_held_out=False, are_partners=wish)
        digits = {digit for digit, _ in drawn}
        assert wish == any((d + 3) % 10 in digits for d in digits)


def test_color_attr_has_two_digits_in_two_colors():
  rng = np.random.default_rng(5)
  for is_held_out in (False, True):
    for _ in range(300):
      first, second = contents("color_attr", rng, is_held_out=is_held_out)
      assert first[0] != second[0] and first[1] != second[1]


def test_kinds_fit_the_world():
  rng = np.random.default_rng(6)
  assert scenes._scene_kinds(WORLDS["one_digit"]) == ("single",)
  assert scenes._scene_kinds(WORLDS["scenes_32"]) == scenes.SCENE_KINDS
  assert scenes._draw_kind(WORLDS["one_digit"], rng) == "single"
  drawn = collections.Counter(
    scenes._draw_kind(WORLDS["scenes_32"], rng) for _ in range(6000)
  )
  # A fifth single and 16 % of each other kind; 4 standard errors are 0.021.
  assert abs(drawn["single"] / 6000 - 0.2) < 0.021
  for kind in scenes.SCENE_KINDS[1:]:
    assert abs(drawn[kind] / 6000 - 0.16) < 0.021


@pytest.mark.parametrize("world", [WORLDS["scenes_32"], WORLDS["scenes_48"]])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_cells_lie_on_the_canvas_with_a_gap(world, count):
  rng = np.random.default_rng(0)
  gap = {32: 3, 48: 4}[world.canvas]
  half = world.digit_size / 2
  for _ in range(60):
    centers = scenes._draw_centers(count, world, rng)
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
    [scenes._draw_centers(1, world, rng)[0] for _ in range(4000)]
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
    centers = scenes._draw_centers(2, LARGE, rng, relation=relation)
    offset = centers[0] - centers[1]
    assert sign * offset[axis] >= 2 * abs(offset[1 - axis])


def test_any_relation_means_every_relation_but_no_diagonal():
  rng = np.random.default_rng(3)
  found = set()
  for _ in range(100):
    centers = scenes._draw_centers(2, LARGE, rng, relation="any")
    dx, dy = centers[0] - centers[1]
    assert max(abs(dx), abs(dy)) >= 2 * min(abs(dx), abs(dy))
    found.add(
      (abs(dx) > abs(dy), bool(dx > 0 if abs(dx) > abs(dy) else dy > 0))
    )
  assert len(found) == 4


WRITING = handwriting("train")
LARGE = WORLDS["scenes_32"]
ONE = WORLDS["one_digit"]


def sample(world, rng, *, held_out=False, writing=WRITING, kind=None):
  return scenes.sample_scene(
    world, rng, writing=writing, held_out=held_out, kind=kind
  )


def test_glyphs_show_the_digit_and_come_from_the_writing():
  rng = np.random.default_rng(1)
  for split in ("train", "test"):
    writing = handwriting(split)
    for _ in range(100):
      for obj in sample(LARGE, rng, writing=writing).objects:
        assert writing.labels[obj.glyph] == obj.digit


def test_partners_appear_in_two_fifths_of_training_scenes_only():
  rng = np.random.default_rng(2)

  def share(**options):
    digits = [
      {obj.digit for obj in sample(LARGE, rng, **options).objects}
      for _ in range(3000)
    ]
    multi = [d for d in digits if len(d) > 1]
    return np.mean([any((k + 3) % 10 in d for k in d) for d in multi])

  # 40 % of multi-object scenes; those of one repeated digit (a fifth) are
  # left out here, which makes it 50 %. Four standard errors are 0.05.
  assert abs(share() - 0.5) < 0.05
  assert share(writing=handwriting("test")) < 0.42
  assert share(held_out=True) < 0.42


def test_two_fifths_of_multi_object_scenes_have_partners():
  rng = np.random.default_rng(3)
  drawn = [[t.digit for t in sample(LARGE, rng).objects] for _ in range(4000)]
  multi = [set(d) for d in drawn if len(d) > 1]
  share = np.mean([any((k + 3) % 10 in d for k in d) for d in multi])
  assert abs(share - 0.4) < 0.035  # four standard errors


def test_a_position_scene_is_never_diagonal():
  rng = np.random.default_rng(4)
  for held_out in (False, True):
    for _ in range(50):
      objects = sample(LARGE, rng, kind="position", held_out=held_out).objects
      first, second = objects
      assert first.relation_to(second) is not None


def test_equal_seeds_give_equal_scenes():
  first, second = (
    [sample(LARGE, rng) for _ in range(20)]
    for rng in (np.random.default_rng(5), np.random.default_rng(5))
  )
  assert first == second


def test_impossible_wishes_are_refused():
  rng = np.random.default_rng(6)
  with pytest.raises(ValueError, match=r"'two' with at most 1.*'single'"):
    sample(ONE, rng, kind="two")
  with pytest.raises(ValueError, match="kind 'triple'"):
    sample(LARGE, rng, kind="triple")
  with pytest.raises(ValueError, match="scene of 2 digits"):
    scenes.arrange([(1, 2), (3, 4)], ONE, rng, writing=WRITING)
