"""VQA v2 scoring on hand-worked cases."""

import pytest

from ddit_jax.evaluation.vqa_accuracy import (
  corpus_accuracy,
  normalise,
  question_accuracy,
)


@pytest.mark.parametrize(
  ("raw", "normal"),
  [
    ("Yes.", "yes"),
    ("  a Red\tBus \n", "red bus"),
    ("two", "2"),
    ("None", "0"),
    ("eleven", "eleven"),
    ("top-left", "top left"),  # no blank beside the mark: replaced by one
    ("top - left", "top left"),  # a blank beside it: deleted
    ("red/white", "red white"),
    ("1,000", "1000"),
    ("1,000/day", "1000day"),  # a grouped number makes every mark vanish
    ("red,white", "red white"),
    ("1.5", "1.5"),
    ("5.", "5"),
    (".5", ".5"),
    ("U.S.", "us"),
    ("3:30", "3:30"),
    ("dont", "don't"),
    ("its", "its"),
    ("shes", "shes"),
    ("she'dve", "she'd've"),
    ("somebody'd", "somebodyd"),
    ("Im", "im"),
    ("the", ""),
    ("", ""),
    ("." * 40 + "x", "." * 8 + "x"),  # at most 32 full stops go
    ("\u0663,\u0665/x", "\u0663\u0665x"),  # Arabic-Indic digits are digits
  ],
)
def test_normal_form_is_the_published_one(raw, normal):
  assert normalise(raw) == normal


@pytest.mark.parametrize(
  ("matches", "accuracy"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1)]
)
def test_accuracy_follows_the_number_of_agreeing_annotators(matches, accuracy):
  answers = ["seven"] * matches + ["two"] * (10 - matches)
  assert question_accuracy("7", answers) == pytest.approx(accuracy, abs=1e-12)


def test_unanimous_annotators_switch_normalisation_off():
  assert question_accuracy("yes", ["yes"] * 10) == 1
  assert question_accuracy("Yes", ["yes"] * 10) == 0
  assert question_accuracy("Yes", ["yes"] * 9 + ["no"]) == 1
  # Blanks at the ends do not break unanimity.
  assert question_accuracy("Yes", ["yes"] * 9 + [" yes\n"]) == 0


def test_annotations_without_an_id_vanish_together():
  answers = ["red"] * 4 + ["blue"] * 6
  same = ["maybe"] * 10
  # Leaving out one "red" leaves none; each "blue" leaves four "red".
  assert question_accuracy("red", answers, identities=same) == 0.6
  assert question_accuracy("red", answers) == 1


def annotation(question_id, answers, answer_type, question_type="what"):
  return {
    "question_id": question_id,
    "question_type": question_type,
    "answer_type": answer_type,
    "answers": [
      {"answer": a, "answer_confidence": "yes", "answer_id": i}
      for i, a in enumerate(answers, 1)
    ],
  }


ANNOTATIONS = [
  annotation(1, ["7"] * 9 + ["1"], "number"),
  annotation(2, ["red"] * 8 + ["pink", "orange"], "other"),
  annotation(3, ["yes"] * 5 + ["no"] * 5, "yes/no", "is it"),
]


def test_corpus_accuracy_averages_and_rounds_per_type():
  results = [
    {"question_id": 2, "answer": "blue"},
    {"question_id": 1, "answer": "seven"},
    {"question_id": 3, "answer": "no"},
    {"question_id": 2, "answer": "Pink!"},  # the later result counts
  ]
  scores = corpus_accuracy(ANNOTATIONS, results)
  assert scores.by_question == {1: 100, 2: 30, 3: 100}
  assert scores.overall == 76.67
  assert scores.by_answer_type == {"number": 100, "other": 30, "yes/no": 100}
  assert scores.by_question_type == {"what": 65, "is it": 100}
  assert scores.repeated_results == 1


def test_missing_and_foreign_results_raise():
  results = [{"question_id": i, "answer": "x"} for i in (1, 2, 9)]
  with pytest.raises(ValueError, match="1 without a result, 1 results for"):
    corpus_accuracy(ANNOTATIONS, results)


def test_empty_and_uneven_answers_raise():
  with pytest.raises(ValueError, match="at least one annotator"):
    question_accuracy("x", [])
  with pytest.raises(ValueError, match="2 identities for 1 answers"):
    question_accuracy("x", ["x"], identities=[1, 2])
