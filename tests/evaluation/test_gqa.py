"""GQA's metrics on a handful of questions, by hand."""

import pytest

from ddit_jax.evaluation import gqa


def question(answer, structural="query", **changes):
  return {
    "question": "what is  it?",
    "imageId": "1",
    "answer": answer,
    "isBalanced": True,
    "types": {
      "structural": structural,
      "semantic": "obj",
      "detailed": "category",
    },
    "groups": {"global": "thing"},
    "semantic": [
      {"operation": "select", "argument": "cat (1)"},
      {"operation": "query", "argument": "name"},
      {"operation": "verify", "argument": "existing"},
    ],
    "entailed": [],
  } | changes


QUESTIONS = {
  "a": question("cat", entailed=["a", "c", "d"]),
  "b": question("dog"),
  "c": question("yes", "verify", groups={"global": None}),
  "d": question("no", "verify", isBalanced=False),
}
PREDICTIONS = {"a": "cat", "b": "cat", "c": "yes", "d": "yes"}


def test_only_balanced_questions_count():
  figures = gqa.accuracies(QUESTIONS, PREDICTIONS)
  assert figures["accuracy"] == pytest.approx(200 / 3)
  assert figures["open"] == 50 and figures["binary"] == 100
  assert figures["questions_by_structural_type"] == {"query": 2, "verify": 1}
  assert figures["accuracy_by_words"] == {"3": pytest.approx(200 / 3)}


def test_naming_and_existing_are_no_steps():
  # Of three operations "query: name" and "verify: existing" do not count.
  figures = gqa.accuracies(QUESTIONS, PREDICTIONS)
  assert figures["questions_by_steps"] == {"1": 3}


@pytest.mark.parametrize("prediction", ["Cat", "cat.", "cat ", " cat"])
def test_answers_are_compared_letter_for_letter(prediction):
  assert not gqa.is_right(QUESTIONS["a"], prediction)


def test_consistency_is_over_right_questions_that_entail_others():
  # "a" is right; of its entailed c is right and d is wrong; a itself is not.
  assert gqa.consistency(QUESTIONS, PREDICTIONS) == 50
  assert gqa.consistency(QUESTIONS, PREDICTIONS | {"a": "x"}) == 0


def test_common_questions_have_their_own_choices():
  choices = {key: {"valid": ["cat"], "plausible": ["dog"]} for key in QUESTIONS}
  shares = gqa.choice_shares(QUESTIONS, PREDICTIONS, choices)
  assert shares == pytest.approx({"validity": 200 / 3, "plausibility": 0})
  common = QUESTIONS["a"]["types"] | {"detailed": "twoCommon"}
  shares = gqa.choice_shares(
    {"a": QUESTIONS["a"] | {"types": common}}, {"a": "shape"}, {}
  )
  assert shares == {"validity": 100, "plausibility": 100}


def test_distribution_is_a_hundredth_of_chi_square():
  # Group "thing": cat 2 - 1, dog 0 - 1: 1 + 1; "c" has no group.
  assert gqa.distribution(QUESTIONS, PREDICTIONS) == pytest.approx(0.02)
