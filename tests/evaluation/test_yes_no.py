"""POPE parsing and scores on hand-worked cases."""

import pytest

from ddit_jax.evaluation.yes_no import (
  parse_yes_no,
  scores_from_counts,
  yes_no_scores,
)


@pytest.mark.parametrize(
  ("text", "parsed"),
  [
    ("yes", "yes"),
    ("No", "no"),
    ("no, there is none", "no"),
    ("There is not.", "no"),
    ("It is. no", "yes"),  # only the first sentence counts
    ("NO", "yes"),
    ("no!", "yes"),
    ("Nope", "yes"),
    ("There isn't", "yes"),
    ("", "yes"),
    ("well\nno", "yes"),  # a line end parts no words
  ],
)
def test_parsing_is_the_published_one(text, parsed):
  assert parse_yes_no(text) == parsed


def test_scores_follow_from_the_confusion_counts():
  labels = ["yes", "yes", "yes", "no", "no"]
  answers = ["yes", "no", "Yes, it is", "no", "yes"]
  scores = yes_no_scores(labels, answers)
  counts = (
    scores.true_positives,
    scores.false_positives,
    scores.true_negatives,
    scores.false_negatives,
  )
  assert counts == (2, 1, 1, 1)
  assert scores.accuracy == 3 / 5
  assert scores.precision == scores.recall == 2 / 3
  assert scores.f1 == pytest.approx(2 / 3, abs=1e-15)
  assert scores.yes_ratio == 3 / 5
  assert scores.undefined == ()


def test_a_model_that_never_says_yes_gets_zero_and_is_reported():
  scores = yes_no_scores(["yes", "no", "no"], ["no"] * 3)
  assert (scores.precision, scores.recall, scores.f1) == (0, 0, 0)
  assert scores.undefined == ("precision", "f1")
  assert scores.accuracy == 2 / 3


def test_labels_without_a_yes_leave_recall_undefined():
  scores = yes_no_scores(["no", "no"], ["no", "yes"])
  assert scores.undefined == ("recall", "f1")
  assert scores.recall == 0


@pytest.mark.parametrize(
  ("labels", "answers", "message"),
  [
    ([], [], "at least one"),
    (["yes"], ["yes", "no"], "1 labels for 2 answers"),
    (["maybe"], ["yes"], "maybe"),
  ],
)
def test_bad_input_is_named(labels, answers, message):
  with pytest.raises(ValueError, match=message):
    yes_no_scores(labels, answers)


def test_no_counts_raise():
  with pytest.raises(ValueError, match="nothing to score"):
    scores_from_counts(
      true_positives=0, false_positives=0, true_negatives=0, false_negatives=0
    )
