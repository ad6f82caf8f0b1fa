"""Ten annotators: never unanimous, and the majority is the right answer."""

import collections

import pytest

from ddit_jax.digits.datasets import annotators
from ddit_jax.digits.questions import KINDS, Question, possible_answers
from ddit_jax.digits.world import WORLDS
from ddit_jax.evaluation import vqa_accuracy

LARGE = WORLDS["scenes_32"]


def question_of(kind, answer):
  answer_type = "yes/no" if answer in ("yes", "no") else "other"
  return Question(kind=kind, text="?", answer=answer, answer_type=answer_type)


ALL = [
  question_of(kind, answer)
  for kind in KINDS
  for answer in possible_answers(kind, LARGE)
]


@pytest.mark.parametrize("question", ALL, ids=lambda q: f"{q.kind}-{q.answer}")
def test_seven_say_it_two_say_it_otherwise_one_is_wrong(question):
  for seed in range(8):
    found = annotators(question, seed)
    counts = collections.Counter(found)
    assert sorted(counts.values()) == [1, 2, 7]
    assert counts[question.answer] == 7
    (error,) = (answer for answer, n in counts.items() if n == 1)
    right = vqa_accuracy.normalise(question.answer)
    assert vqa_accuracy.normalise(error) != right
    normalised = collections.Counter(map(vqa_accuracy.normalise, found))
    assert normalised.most_common(1)[0][0] == right
    assert error in possible_answers(question.kind, LARGE) or (
      question.kind.startswith("how_many") and error in ("zero", "five")
    )


def test_words_and_figures_are_the_same_answer():
  found = annotators(question_of("how_many", "three"), 0)
  assert found.count("3") == 2
  assert [vqa_accuracy.normalise(a) for a in found].count("3") == 9


def test_a_seed_fixes_order_and_error():
  question = question_of("what_number", "seven")
  assert annotators(question, 5) == annotators(question, 5)
  assert len({tuple(annotators(question, seed)) for seed in range(9)}) > 5
  errors = {
    answer
    for seed in range(30)
    for answer in annotators(question, seed)
    if answer not in ("seven", "7")
  }
  assert errors == {"one", "nine"}
