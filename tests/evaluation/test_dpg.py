"""DPG-Bench's propositions by hand."""

import pytest

from ddit_jax.evaluation.dpg import (
  Proposition,
  category_scores,
  image_score,
  tile_score,
)

CHAIN = [
  Proposition(number=1, parents=(), category="entity - whole"),
  Proposition(number=2, parents=(1,), category="attribute - color"),
  Proposition(number=3, parents=(2,), category="global"),
  Proposition(number=4, parents=(), category="entity - whole"),
]


def test_only_a_lower_case_yes_holds():
  answers = {1: "Yes", 2: "yes ", 3: "no", 4: "yes"}
  assert tile_score(CHAIN, answers) == 0.25


def test_a_false_parent_makes_all_that_follow_false():
  assert tile_score(CHAIN, dict.fromkeys(range(1, 5), "yes")) == 1
  # 1 is false, so 2 and with it 3 are.
  assert tile_score(CHAIN, {1: "no", 2: "yes", 3: "yes", 4: "yes"}) == 0.25


def test_a_parent_that_comes_later_is_as_it_was_answered():
  reverse = [
    Proposition(number=1, parents=(2,), category=""),
    Proposition(number=2, parents=(3,), category=""),
    Proposition(number=3, parents=(), category=""),
  ]
  # 2 is still 1 when 1 is looked at.
  answers = {1: "yes", 2: "yes", 3: "no"}
  assert tile_score(reverse, answers) == pytest.approx(1 / 3)


def test_categories_use_the_last_tile_and_ignore_parents():
  yes, last = dict.fromkeys(range(1, 5), "yes"), {1: "no", 2: "yes", 3: "yes"}
  tiles = [yes, last | {4: "yes"}]
  assert image_score(CHAIN, tiles) == 0.625
  assert category_scores([(CHAIN, tiles)]) == (
    {"entity": 50, "attribute": 100, "global": 100},
    {"entity - whole": 50, "attribute - color": 100, "global": 100},
  )
