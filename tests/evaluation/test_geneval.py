"""GenEval's logic on hand-worked boxes."""

import math

import pytest

from ddit_jax.evaluation.geneval import (
  Detection,
  judge,
  keep,
  relations,
  task_scores,
)


def seen(class_name, box=(0, 0, 10, 10), *, score=0.95, color=None):
  return Detection(class_name=class_name, box=box, score=score, color=color)


def at(x, y, size=10):
  half = size / 2
  return seen("x", (x - half, y - half, x + half, y + half))


@pytest.mark.parametrize(
  ("x", "y", "expected"),
  [
    (-20, 0, {"left of"}),
    (20, 0, {"right of"}),
    (0, -20, {"above"}),
    (0, 20, {"below"}),
    (-20, 20, {"left of", "below"}),
    (0, 0, set()),
    (2, 0, set()),  # two sizes of 10: the first 2 pixels do not count
    (4.5, 0, {"right of"}),
    (3.5, 0, set()),  # (3.5 - 2) / 3.5 < 1/2
  ],
)
def test_relations_use_shrunk_offset_over_full_length(x, y, expected):
  assert relations(at(x, y), at(0, 0)) == expected


def test_relation_along_an_angle_ends_where_trigonometry_says():
  # With points instead of boxes nothing is shrunk: "right of" holds while
  # cos(angle) > 1/2, that is below 60 degrees.
  for degrees in range(0, 91, 3):
    if degrees == 60:
      continue
    angle = math.radians(degrees)
    found = relations(
      at(100 * math.cos(angle), -100 * math.sin(angle), 0), at(0, 0, 0)
    )
    assert ("right of" in found) == (degrees < 60)
    assert ("above" in found) == (degrees > 30)


def test_include_needs_the_count_and_exclude_forbids_more():
  metadata = {
    "tag": "counting",
    "include": [{"class": "two", "count": 2}],
    "exclude": [{"class": "two", "count": 3}],
  }
  for found, reasons in [
    (1, ("expected two>=2, found 1",)),
    (2, ()),
    (3, ("expected two<3, found 3",)),
  ]:
    verdict = judge(
      metadata, [seen("two"), seen("cup")] + [seen("two")] * (found - 1)
    )
    assert verdict.reasons == reasons
    assert verdict.is_correct == (not reasons)


def test_color_must_fit_the_best_boxes():
  metadata = {
    "tag": "colors",
    "include": [{"class": "cup", "count": 1, "color": "red"}],
  }
  red, cyan = (
    seen("cup", score=score, color=color)
    for score, color in ((0.5, "red"), (0.9, "cyan"))
  )
  assert judge(metadata, [red]).is_correct
  # The better box is cyan, and only the best `count` boxes are looked at.
  verdict = judge(metadata, [red, cyan])
  assert verdict.reasons == ("expected red cup>=1, found 0 red; and 1 cyan",)


def test_position_is_checked_against_the_target_clause():
  metadata = {
    "tag": "position",
    "include": [
      {"class": "dog", "count": 1},
      {"class": "cup", "count": 1, "position": ["left of", 0]},
    ],
  }
  dog = seen("dog", (50, 0, 60, 10))
  assert judge(metadata, [dog, seen("cup", (0, 0, 10, 10))]).is_correct
  assert judge(metadata, [dog, seen("cup", (90, 0, 99, 10))]).reasons == (
    "expected cup left of target, found right of target",
  )
  assert judge(metadata, [seen("cup")]).reasons == (
    "expected dog>=1, found 0",
    "no target for cup to be left of",
  )


def test_thresholds_limits_and_order():
  scores = [0.3, 0.31, 0.9, 0.91]
  found = [seen("cup", score=score) for score in scores]
  kept = keep(found, tag="colors")["cup"]
  assert [d.score for d in kept] == [0.91, 0.9, 0.31]
  assert [d.score for d in keep(found, tag="counting")["cup"]] == [0.91]
  assert keep([seen("cup", score=0.2)], tag="colors") == {}
  assert len(keep([seen("cup")] * 20, tag="colors")["cup"]) == 16


def test_overlapping_boxes_are_dropped_only_on_request():
  # One pixel wider on each axis: 11 x 11 and 11 x 11 share 11 x 6.
  pair = [
    seen("cup", (0, 0, 10, 10), score=0.9),
    seen("cup", (0, 5, 10, 15), score=0.8),
  ]
  overlap = 66 / (2 * 121 - 66)
  for limit, count in [(1, 2), (overlap + 0.01, 2), (overlap - 0.01, 1)]:
    assert len(keep(pair, tag="colors", max_overlap=limit)["cup"]) == count


def test_overall_is_the_mean_of_tasks_not_of_images():
  scores = task_scores(["a", "a", "a", "b"], [True, True, False, False])
  assert scores == {"a": 2 / 3, "b": 0, "overall": 1 / 3}
  with pytest.raises(ValueError, match="1 tags for 2 verdicts"):
    task_scores(["a"], [True, False])
