"""Fact scores on hand-counted sets."""

import pytest

from ddit_jax.evaluation.fact_scores import fact_scores

TRUE = [
  {("digit", 7), ("pair", 7, "red")},
  {("digit", 2), ("digit", 3), ("relation", 2, "left of", 3)},
]


def test_counts_are_summed_over_items_before_dividing():
  stated = [
    {("digit", 7), ("pair", 7, "blue")},
    {("digit", 2)},
  ]
  scores = fact_scores(stated, TRUE)
  assert scores["digit"].precision == 1
  assert scores["digit"].recall == 2 / 3
  assert scores["pair"].f1 == 0
  total = scores["total"]
  assert (total.matched, total.stated, total.true) == (2, 3, 5)
  assert total.precision == 2 / 3
  assert total.recall == 2 / 5
  harmonic = 2 / (1 / total.precision + 1 / total.recall)
  assert total.f1 == pytest.approx(harmonic, abs=1e-15)


def test_stating_the_truth_scores_one_everywhere():
  for score in fact_scores(TRUE, TRUE).values():
    assert (score.precision, score.recall, score.f1) == (1, 1, 1)


def test_silence_scores_zero_without_dividing_by_zero():
  for score in fact_scores([set(), set()], TRUE).values():
    assert (score.precision, score.recall, score.f1) == (0, 0, 0)


def test_facts_of_one_image_do_not_help_another():
  assert fact_scores(TRUE[::-1], TRUE)["total"].matched == 0


def test_bad_input_is_named():
  with pytest.raises(ValueError, match="1 sets of stated facts for 2"):
    fact_scores(TRUE[:1], TRUE)
  with pytest.raises(ValueError, match="at least one item"):
    fact_scores([], [])
  with pytest.raises(ValueError, match="named total"):
    fact_scores([{("total", 1)}], [set()])
