"""Metrics of hand-written captions and answers."""

import numpy as np
import pytest

from ddit_jax.digits import grammar
from ddit_jax.digits.datasets import ImageToTextPool
from ddit_jax.digits.evaluation_sets import CaptionItem, QuestionItem
from ddit_jax.digits.questions import Question, presence_question
from ddit_jax.digits.scenes import Scene, SceneObject
from ddit_jax.digits.text_scores import (
  answer_metrics,
  caption_metrics,
  most_frequent_answers,
  pope_metrics,
)
from ddit_jax.digits.world import COLORS


def caption_item(digit, color, *, is_held_out=False):
  obj = SceneObject(
    digit=digit, color=COLORS.index(color), x=8.0, y=8.0, glyph=0
  )
  return CaptionItem(
    image=np.zeros((16, 16, 3), np.uint8),
    scene=Scene((obj,)),
    is_held_out=is_held_out,
  )


CAPTION_ITEMS = [
  caption_item(7, "red"),
  caption_item(2, "blue", is_held_out=True),
  caption_item(3, "green"),
  caption_item(4, "pink", is_held_out=True),
]


def values(metrics):
  return {name: record["value"] for name, record in metrics.items()}


def test_digit_and_colour_are_right_alone_or_together():
  captions = [
    "a red seven",
    "there is a two in cyan",  # digit right
    "a picture of a green five",  # colour right
    "pink pink four",  # states nothing: no article
  ]
  found = values(caption_metrics(CAPTION_ITEMS, captions, seed=0))
  assert found["caption/digit"] == 2 / 4
  assert found["caption/color"] == 2 / 4
  assert found["caption/digit_and_color"] == 1 / 4
  assert found["caption/digit_and_color_seen_pairs"] == 1 / 2
  assert found["caption/digit_and_color_heldout_pairs"] == 0
  # Stated: 2 + 2 + 2 + 0 facts, of which 2 + 1 + 0 are true; true are 8.
  assert found["caption/fact_precision"] == pytest.approx(3 / 6)
  assert found["caption/fact_recall"] == pytest.approx(3 / 8)
  assert found["caption/fact_f1"] == pytest.approx(2 * 3 / (6 + 8))


def test_naming_more_than_there_is_is_not_right():
  captions = ["a red seven and a two"] + ["a blue two"] * 3
  found = values(caption_metrics(CAPTION_ITEMS, captions, seed=0))
  assert found["caption/digit_and_color_seen_pairs"] == 0
  assert found["caption/digit_and_color_heldout_pairs"] == 1 / 2
  assert found["caption/color"] == 2 / 4


def test_complete_captions_reach_the_oracle():
  rng = np.random.default_rng(0)
  captions = [
    grammar.caption(i.scene, rng, is_complete=True) for i in CAPTION_ITEMS
  ]
  for record in caption_metrics(CAPTION_ITEMS, captions, seed=0).values():
    assert record["value"] == record["oracle"] == 1
    assert record["interval"] == [1, 1]
    assert record["prior_baseline"] == 0  # all four scenes differ in everything


def test_one_caption_for_all_scores_its_own_baseline():
  metrics = caption_metrics(CAPTION_ITEMS, ["a red seven"] * 4, seed=0)
  for name, record in metrics.items():
    assert record["prior_baseline"] == pytest.approx(record["value"]), name
  assert metrics["caption/digit"]["value"] == 1 / 4


def test_saying_nothing_scores_zero():
  for record in caption_metrics(CAPTION_ITEMS, [""] * 4, seed=0).values():
    assert record["value"] == record["prior_baseline"] == 0


def test_bad_captions_are_named():
  with pytest.raises(ValueError, match="4 items for 1 captions"):
    caption_metrics(CAPTION_ITEMS, ["a red seven"], seed=0)
  with pytest.raises(ValueError, match="all 2 items ask for the same"):
    caption_metrics([CAPTION_ITEMS[0]] * 2, ["a red seven"] * 2, seed=0)


def question_item(question, written, *, x=8.0):
  obj = SceneObject(digit=7, color=0, x=x, y=8.0, glyph=0)
  return QuestionItem(
    image=np.zeros((16, 16, 3), np.uint8),
    scene=Scene((obj,)),
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
  return question_item(question, [answer] * 7 + ["1"] * 2 + ["nine"])


def color(answer):
  question = Question(
    kind="what_color",
    text="what color is the number?",
    answer=answer,
    answer_type="other",
  )
  return question_item(question, [answer] * 7 + ["scarlet"] * 2 + ["pink"])


QUESTION_ITEMS = [number("seven"), number("two"), color("red"), color("blue")]
PRIOR = {"what_number": "two", "what_color": "red"}


def test_answers_count_exactly_by_kind_and_softly_by_annotators():
  answers = ["7.", "nine", "Scarlet", "blue"]
  metrics = answer_metrics(QUESTION_ITEMS, answers, prior_answers=PRIOR)
  value = {name: record["value"] for name, record in metrics.items()}
  assert value["vqa/what_number"] == 1 / 2  # "7." is "seven" to VQA v2
  assert value["vqa/what_color"] == 1 / 2
  assert value["vqa/accuracy/number"] == pytest.approx((1 + 0.3) / 2)
  assert value["vqa/accuracy/other"] == pytest.approx((0.6 + 1) / 2)
  assert value["vqa/accuracy"] == pytest.approx((1 + 0.3 + 0.6 + 1) / 4)
  assert metrics["vqa/accuracy"]["n"] == 4
  assert metrics["vqa/what_color"]["n"] == 2


def test_oracle_and_baseline_are_scored_by_the_same_formula():
  metrics = answer_metrics(QUESTION_ITEMS, ["?"] * 4, prior_answers=PRIOR)
  for name, record in metrics.items():
    assert record["oracle"] == 1, name
    assert record["prior_baseline"] == 1 / 2, name
    assert record["value"] == 0, name
  soft = answer_metrics(
    QUESTION_ITEMS,
    ["?"] * 4,
    prior_answers={"what_number": "nine", "what_color": "pink"},
  )
  assert soft["vqa/accuracy"]["prior_baseline"] == pytest.approx(0.3)
  assert soft["vqa/what_color"]["prior_baseline"] == 0


def test_the_oracle_falls_where_annotators_disagree():
  divided = question_item(number("seven").question, ["seven"] * 2 + ["one"] * 8)
  record = answer_metrics([divided], ["seven"], prior_answers=PRIOR)[
    "vqa/accuracy"
  ]
  assert record["oracle"] == record["value"] == pytest.approx(0.6)


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
  return question_item(question, ["yes"] * 10, x=x)


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
    assert all_yes["value"] == pytest.approx(all_yes["prior_baseline"])
    right = 1 / 2 if score == "yes_ratio" else 1
    assert all_yes["oracle"] == right


def test_pope_without_any_yes_scores_zero_precision():
  metrics = pope_metrics({"random": POPE}, {"random": ["no"] * 6})
  assert metrics["pope/random/precision"]["value"] == 0
  assert metrics["pope/random/f1"]["value"] == 0
  assert metrics["pope/random/accuracy"]["value"] == 1 / 2


def test_questions_of_one_image_are_drawn_together():
  # Each image has one right and one wrong answer: no image differs.
  metrics = pope_metrics({"random": POPE}, {"random": ["yes"] * 6})
  assert metrics["pope/random/accuracy"]["interval"] == [0.5, 0.5]


def test_bad_answers_are_named():
  with pytest.raises(ValueError, match=r"no prior answer .*what_color"):
    answer_metrics(
      QUESTION_ITEMS, ["x"] * 4, prior_answers={"what_number": "two"}
    )
  with pytest.raises(ValueError, match="4 items for 3 answers"):
    answer_metrics(QUESTION_ITEMS, ["x"] * 3, prior_answers=PRIOR)
  with pytest.raises(ValueError, match=r"answers of \['popular'\]"):
    pope_metrics({"random": POPE}, {"popular": ["no"] * 6})
  with pytest.raises(ValueError, match="6 items for 1 random answers"):
    pope_metrics({"random": POPE}, {"random": ["no"]})
