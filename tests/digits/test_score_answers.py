"""Answer metrics on hand-written questions and answers."""

import numpy as np
import pytest

from ddit_jax.digits.datasets import ImageToTextPool, QuestionItem
from ddit_jax.digits.questions import Question, presence_question
from ddit_jax.digits.scenes import Scene, Thing
from ddit_jax.digits.scores import (
  answer_metrics,
  most_frequent_answers,
  pope_metrics,
)


def item(question, written, *, x=8.0):
  thing = Thing(digit=7, color=0, x=x, y=8.0, glyph=0)
  return QuestionItem(
    image=np.zeros((16, 16, 3), np.uint8),
    scene=Scene((thing,)),
    question=question,
    annotators=written,
    is_held_out=False,
  )


def number(answer):
  question = Question(
    kind="what_number",
    text="what number is it?",
    answer=answer,
    answer_type="number",
  )
  return item(question, [answer] * 7 + ["1"] * 2 + ["nine"])


def color(answer):
  question = Question(
    kind="what_color",
    text="what color is the number?",
    answer=answer,
    answer_type="other",
  )
  return item(question, [answer] * 7 + ["scarlet"] * 2 + ["pink"])


ITEMS = [number("seven"), number("two"), color("red"), color("blue")]
BLIND = {"what_number": "two", "what_color": "red"}


def test_answers_count_exactly_by_kind_and_softly_by_annotators():
  answers = ["7.", "nine", "Scarlet", "blue"]
  metrics = answer_metrics(ITEMS, answers, blind=BLIND)
  value = {name: record["value"] for name, record in metrics.items()}
  assert value["vqa/what_number"] == 1 / 2  # "7." is "seven" to VQA v2
  assert value["vqa/what_color"] == 1 / 2
  assert value["vqa/accuracy/number"] == pytest.approx((1 + 0.3) / 2)
  assert value["vqa/accuracy/other"] == pytest.approx((0.6 + 1) / 2)
  assert value["vqa/accuracy"] == pytest.approx((1 + 0.3 + 0.6 + 1) / 4)
  assert metrics["vqa/accuracy"]["n"] == 4
  assert metrics["vqa/what_color"]["n"] == 2


def test_ceiling_and_baseline_are_scored_by_the_same_formula():
  metrics = answer_metrics(ITEMS, ["?"] * 4, blind=BLIND)
  for name, record in metrics.items():
    assert record["ceiling"] == 1, name
    assert record["baseline"] == 1 / 2, name
    assert record["value"] == 0, name
  soft = answer_metrics(
    ITEMS, ["?"] * 4, blind={"what_number": "nine", "what_color": "pink"}
  )
  assert soft["vqa/accuracy"]["baseline"] == pytest.approx(0.3)
  assert soft["vqa/what_color"]["baseline"] == 0


def test_the_ceiling_falls_where_annotators_disagree():
  divided = item(number("seven").question, ["seven"] * 2 + ["one"] * 8)
  record = answer_metrics([divided], ["seven"], blind=BLIND)["vqa/accuracy"]
  assert record["ceiling"] == record["value"] == pytest.approx(0.6)


def test_the_most_frequent_answers_come_from_the_pool():
  rows = [
    ("caption", "a red seven"),
    ("what_color", "red"),
    ("what_color", "blue"),
    ("what_color", "blue"),
    ("what_number", "two"),
    ("what_number", "seven"),
    ("caption", "a red seven"),
  ]
  pool = ImageToTextPool(
    images=np.zeros((len(rows), 16, 16, 3), np.uint8),
    prompts=[""] * len(rows),
    texts=[text for _, text in rows],
    kinds=[kind for kind, _ in rows],
  )
  expected = {"what_color": "blue", "what_number": "seven"}
  assert most_frequent_answers(pool) == expected


def pope_item(is_present, x):
  question = presence_question(7, is_present=is_present)
  return item(question, ["yes"] * 10, x=x)


POPE = [pope_item(flag, x) for x in (4.0, 6.0, 8.0) for flag in (True, False)]


def test_pope_scores_follow_from_the_confusion_counts():
  answers = {
    "random": ["yes", "no", "yes, it is", "yes", "no", "no"],
    "popular": ["yes"] * 6,
  }
  metrics = pope_metrics({"random": POPE, "popular": POPE}, answers)
  value = {name: record["value"] for name, record in metrics.items()}
  # Random: 2 hits, 1 false yes, 1 false no.
  assert value["pope/random/accuracy"] == pytest.approx(4 / 6)
  assert value["pope/random/precision"] == pytest.approx(2 / 3)
  assert value["pope/random/recall"] == pytest.approx(2 / 3)
  assert value["pope/random/f1"] == pytest.approx(2 / 3)
  assert value["pope/random/yes_ratio"] == pytest.approx(1 / 2)
  assert value["pope/popular/f1"] == pytest.approx(2 / 3)
  assert value["pope/accuracy"] == pytest.approx((4 / 6 + 1 / 2) / 2)
  assert metrics["pope/accuracy"]["n"] == 12
  for score in ("accuracy", "precision", "recall", "f1", "yes_ratio"):
    all_yes = metrics[f"pope/popular/{score}"]
    assert all_yes["value"] == pytest.approx(all_yes["baseline"])
    right = 1 / 2 if score == "yes_ratio" else 1
    assert all_yes["ceiling"] == right


def test_pope_without_any_yes_scores_zero_precision():
  metrics = pope_metrics({"random": POPE}, {"random": ["no"] * 6})
  assert metrics["pope/random/precision"]["value"] == 0
  assert metrics["pope/random/f1"]["value"] == 0
  assert metrics["pope/random/accuracy"]["value"] == 1 / 2


def test_questions_of_one_image_are_drawn_together():
  # Each image has one right and one wrong answer: no image differs.
  metrics = pope_metrics({"random": POPE}, {"random": ["yes"] * 6})
  assert metrics["pope/random/accuracy"]["interval"] == [0.5, 0.5]


def test_bad_input_is_named():
  with pytest.raises(ValueError, match=r"no blind answer .*what_color"):
    answer_metrics(ITEMS, ["x"] * 4, blind={"what_number": "two"})
  with pytest.raises(ValueError, match="4 items for 3 answers"):
    answer_metrics(ITEMS, ["x"] * 3, blind=BLIND)
  with pytest.raises(ValueError, match=r"answers of \['popular'\]"):
    pope_metrics({"random": POPE}, {"popular": ["no"] * 6})
  with pytest.raises(ValueError, match="6 items for 1 random answers"):
    pope_metrics({"random": POPE}, {"random": ["no"]})
