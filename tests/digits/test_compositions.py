"""Held-out compositions against lists written by hand."""

import collections
import itertools

from ddit_jax.digits import world

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
