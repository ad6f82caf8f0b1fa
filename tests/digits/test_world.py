"""The digit world: held-out compositions, relations, sizes and writers."""

import collections
import itertools

import numpy as np
import pytest
from sklearn import datasets

from ddit_jax.digits import world
from ddit_jax.digits.world import WORLDS, World

HELD_OUT_DIGITS = {
  *((0, 5), (1, 4), (2, 3)),
  *((1, 9), (2, 8), (3, 7), (4, 6), (6, 9), (7, 8)),
}
HELD_OUT_COUNTS = {(3, 2), (1, 3), (8, 3), (6, 4)}


def test_sixteen_pairs_are_held_out_two_digits_a_color():
  held_out = [p for p in world.PAIRS if world.is_held_out_pair(*p)]
  assert len(world.PAIRS) == 80 and len(held_out) == 16
  per_color = collections.Counter(color for _, color in held_out)
  assert per_color == {color: 2 for color in range(8)}
  # Red zero and red five, orange three and orange eight, ...
  assert {d for d, c in held_out if c == 0} == {0, 5}
  assert {d for d, c in held_out if c == 1} == {3, 8}


def test_every_digit_keeps_seen_colors_and_every_color_seen_digits():
  for digit, colors in enumerate(world.SEEN_COLORS):
    assert len(colors) >= 6
    assert not any(world.is_held_out_pair(digit, c) for c in colors)


def test_nine_of_forty_five_digit_pairs_are_held_out_in_either_order():
  held_out = {
    pair
    for pair in itertools.combinations(range(10), 2)
    if world.is_held_out_digits(*pair)
  }
  assert held_out == HELD_OUT_DIGITS
  for first, second in held_out:
    assert world.is_held_out_digits(second, first)
  assert not any(world.is_held_out_digits(d, d) for d in range(10))


def test_four_of_thirty_counts_are_held_out_and_no_single_digit():
  held_out = {
    pair
    for pair in itertools.product(range(10), range(2, 5))
    if world.is_held_out_count(*pair)
  }
  assert held_out == HELD_OUT_COUNTS
  assert not any(
    world.is_held_out_count(d, n) for d in range(10) for n in (0, 1)
  )


def test_names_are_complete():
  assert len(world.DIGIT_WORDS) == len(world.PLURALS) == 10
  assert len(world.COLORS) == len(world.HUES) == 8
  assert world.PLURALS[6] == "sixes"
  assert [world.article(w) for w in ("eight", "orange", "one")] == [
    *("an", "an", "a")
  ]


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


def test_splits_are_the_stated_rows_of_the_data_set():
  whole = datasets.load_digits()
  rows = {"train": (0, 1157), "validation": (1157, 1415), "test": (1415, 1797)}
  for split, (start, stop) in rows.items():
    found = world.handwriting(split)
    np.testing.assert_array_equal(found.images, whole.images[start:stop])
    np.testing.assert_array_equal(found.labels, whole.target[start:stop])
    assert found.images.dtype == np.uint8 and found.labels.dtype == np.int64
  assert len(world.handwriting("test").labels) == 382


def test_no_form_is_in_two_splits():
  forms = {s: set(world.handwriting(s).forms.tolist()) for s in world.SPLITS}
  assert forms["train"] == set(range(9))
  assert forms["validation"] == {9, 10}
  assert forms["test"] == {11, 12, 13}


def test_each_form_begins_with_the_dictation_zero_to_nine():
  # Only starts that are exact: 906 and 1545 come from an alignment.
  whole = datasets.load_digits().target
  for start in world._FORM_STARTS:
    if start not in (906, 1545):
      assert whole[start : start + 10].tolist() == list(range(10)), start


def test_rows_show_their_digit():
  found = world.handwriting("validation")
  for digit, rows in enumerate(found.rows):
    assert set(found.labels[rows].tolist()) == {digit}
  assert sum(map(len, found.rows)) == 258


def test_only_the_training_writers_are_training():
  assert world.handwriting("train").is_training
  assert not world.handwriting("validation").is_training
  assert not world.handwriting("test").is_training


def test_shared_arrays_cannot_be_written():
  with pytest.raises(ValueError, match="read-only"):
    world.handwriting("train").images[0] = 0


def test_an_unknown_split_names_the_splits():
  with pytest.raises(ValueError, match=r"'val'.*'validation'"):
    world.handwriting("val")
