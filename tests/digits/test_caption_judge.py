"""Answers from captions, by hand and from complete captions of scenes."""

import numpy as np
import pytest

from ddit_jax.digits import caption_judge, evaluation_sets, grammar, questions
from ddit_jax.digits.text_scores import judged_metrics
from ddit_jax.digits.world import WORLDS


@pytest.mark.parametrize(
  "question, caption, answer",
  [
    ("what number is it?", "a picture of a red seven", "seven"),
    ("what number is it?", "a red seven and a blue two", "unknown"),
    ("what number is it?", "", "unknown"),
    ("what number is red?", "a blue two and a seven in red", "seven"),
    ("what color is the number?", "a red seven", "red"),
    ("what color is the seven?", "a blue two and a red seven", "red"),
    ("what color is the seven?", "a seven", "unknown"),
    ("is it red?", "a seven in red", "yes"),
    ("is it red?", "a seven", "no"),
    ("is there an eight?", "an eight", "yes"),
    ("is there a seven?", "two sevens", "yes"),
    ("is there a seven?", "a two", "no"),
    ("is there a red seven?", "a red seven", "yes"),
    ("is there a red seven?", "a red two and a blue seven", "no"),
    ("how many sevens are there?", "three red sevens", "three"),
    ("how many sevens are there?", "a red seven", "one"),
    ("how many twos are there?", "a red seven", "zero"),
    ("how many numbers are there?", "two sevens and a red two", "three"),
    ("is the two above the five?", "a two above a five", "yes"),
    ("is the five below the two?", "a two above a five", "yes"),
    ("is the five above the two?", "a two above a five", "no"),
    ("what is left of the five?", "a two left of a five", "two"),
    ("what is left of the two?", "a two left of a five", "unknown"),
    ("where is the two?", "a two", "unknown"),
  ],
)
def test_answers_by_hand(question, caption, answer):
  assert caption_judge.answer(question, caption) == answer


@pytest.mark.parametrize("name", ["one_digit", "scenes_48"])
def test_complete_captions_answer_what_captions_can_state(name):
  """All but places, and relations of more than two digits."""
  world, rng = WORLDS[name], np.random.default_rng(0)
  stated = set(questions.QUESTION_KINDS) - {
    "where",
    "is_relation",
    "what_relation",
  }
  for item in evaluation_sets.caption_items(world, "validation", 40, 0):
    caption = grammar.references(item.scene, seed=0, count=1)[0]
    for asked in questions.questions(item.scene, world, rng):
      got = caption_judge.answer(asked.text, caption)
      if asked.kind in stated:
        assert got == asked.answer, (caption, asked)


def test_metrics_of_complete_wrong_and_shuffled_captions():
  world = WORLDS["one_digit"]
  items = evaluation_sets.caption_items(world, "validation", 24, 0)
  whole = [grammar.references(item.scene, seed=0, count=1)[0] for item in items]
  right = judged_metrics(items, whole, world, seed=0)
  assert right["judged/accuracy"]["value"] == 1.0
  assert right["judged/accuracy"]["oracle"] == 1.0
  assert right["judged/accuracy"]["prior_baseline"] < 0.7
  wrong = judged_metrics(items, [""] * 24, world, seed=0)
  assert wrong["judged/what_number"]["value"] == 0.0
  assert 0 < wrong["judged/is_there"]["value"] < 1
  assert {name.split("/")[1] for name in right} == {
    "accuracy",
    *questions._ONE_DIGIT_KINDS,
  }
