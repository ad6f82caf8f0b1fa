"""Filters keep and refuse what their numbers say."""

import math

import pytest

from ddit_jax.data.image_header import (
  Filters,
  ImageSize,
  filters_from,
  with_hint,
)


@pytest.mark.parametrize(
  ("height", "width", "reason"),
  [
    (256, 256, None),
    (256, 1024, None),
    (1024, 256, None),
    (256, 1025, "ratio"),
    (1025, 256, "ratio"),
    (255, 256, "short_side"),
    (255, 9999, "short_side"),
    (9459, 9459, None),
    (9460, 9460, "image_too_large"),
    (1, 2**31, "image_too_large"),
  ],
)
def test_sides_are_refused_by_the_defaults(height, width, reason):
  assert Filters().refused_size(ImageSize(height, width)) == reason


@pytest.mark.parametrize(
  ("ratio", "reason"), [(4, None), (0.25, None), (4.1, "ratio"), (0.2, "ratio")]
)
def test_a_ratio_counts_in_both_directions(ratio, reason):
  assert Filters().refused_ratio(ratio) == reason


def test_filters_know_what_they_need():
  off = {"max_ratio": math.inf, "min_short_side": 0}
  assert Filters().needs_size and Filters().needs_sides
  assert not filters_from(off).needs_size
  only_ratio = filters_from({"min_short_side": 0})
  assert only_ratio.needs_size and not only_ratio.needs_sides


def test_a_mapping_changes_what_it_names():
  assert filters_from(None) == filters_from({}) == Filters()
  assert filters_from({"max_ratio": 2}) == Filters(max_ratio=2)
  assert filters_from(Filters(max_ratio=3)).max_ratio == 3


@pytest.mark.parametrize(
  ("spec", "message"),
  [
    ({"max_ration": 2}, "did you mean 'max_ratio'"),
    ({"max_ratio": 0.5}, "at least 1.0, not 0.5"),
    ({"max_ratio": math.nan}, "not nan"),
    ({"max_ratio": "4"}, "not '4'"),
    ({"min_short_side": -1}, "at least 0"),
    ({"min_short_side": True}, "not True"),
    ({"drop_empty_captions": 1}, "True or False, not 1"),
    (["max_ratio"], "must be a mapping"),
    (7, "must be a mapping"),
  ],
)
def test_wrong_filters_are_refused_with_the_way_out(spec, message):
  with pytest.raises(ValueError, match=message):
    filters_from(spec)


def test_a_hint_says_which_filters_left_images_out():
  assert with_hint({"no_text": 2, "bad_text": 1}) == "2 no_text, 1 bad_text"
  hint = with_hint({"short_side": 60})
  assert hint.startswith("60 short_side (filters.min_short_side")
  assert "256 and 4.0 unless set" in hint
