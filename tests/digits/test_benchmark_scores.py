"""CIDEr, MME and GQA of answers whose scores are worked out by hand."""

import pytest

from ddit_jax.digits import benchmark_scores, benchmark_sets, grammar
from ddit_jax.digits.evaluation_sets import caption_items
from ddit_jax.digits.world import WORLDS

WORLD = WORLDS["one_digit"]


def test_mme_gives_nothing_to_those_who_always_say_yes_but_the_half():
  of_subtask = benchmark_sets.mme_items(WORLD, "test", 8, 0)
  right = {k: [i.question.answer for i in v] for k, v in of_subtask.items()}
  found = benchmark_scores.mme_metrics(of_subtask, right)
  assert [found[n]["value"] for n in ("mme/existence", "mme/total")] == [1, 1]
  # 50 points of 200 for one right answer of two.
  yes = {name: ["yes"] * len(answers) for name, answers in right.items()}
  found = benchmark_scores.mme_metrics(of_subtask, yes)
  assert found["mme/color"]["value"] == 0.25
  assert found["mme/color"]["n"] == 8
  half = right | {"color": yes["color"]}
  found = benchmark_scores.mme_metrics(of_subtask, half)
  assert found["mme/total"]["value"] == (1 + 0.25) / 2


def test_gqa_consistency_counts_what_right_answers_entail():
  items = benchmark_sets.gqa_items(WORLD, "test", 4, 0)
  prior = dict.fromkeys(("is_there", "is_there_pair"), "yes") | {
    "what_number": "two",
    "what_color": "red",
  }
  right = [item.question.answer for item in items]
  found = benchmark_scores.gqa_metrics(items, right, prior_answers=prior)
  assert found["gqa/consistency"]["value"] == 1
  assert found["gqa/binary"]["n"] == 16 and found["gqa/open"]["n"] == 8
  # Of each image "is there a seven?" is denied: one of six is wrong, and of the
  # five right ones the three that entail it, and others, lose.
  said = list(right)
  said[1::6] = ["no"] * 4
  found = benchmark_scores.gqa_metrics(items, said, prior_answers=prior)
  assert found["gqa/accuracy"]["value"] == pytest.approx(5 / 6)
  assert found["gqa/binary"]["value"] == 3 / 4
  # pair -> 0, number -> 1/2, color -> 1/2, absent digit -> 1.
  assert found["gqa/consistency"]["value"] == pytest.approx(
    (0 + 0.5 + 0.5 + 1) / 4
  )
  said = [answer.upper() for answer in right]
  found = benchmark_scores.gqa_metrics(items, said, prior_answers=prior)
  assert (
    found["gqa/accuracy"]["value"] == found["gqa/consistency"]["value"] == 0
  )


def test_cider_tells_right_captions_from_those_of_other_scenes():
  items = caption_items(WORLD, "test", 12, 0)
  right = [grammar.references(item.scene, seed=0)[0] for item in items]
  record = benchmark_scores.cider_metrics(items, right, seed=0)["caption/cider"]
  assert record["value"] > record["oracle"] > record["prior_baseline"]
  assert record["n"] == 12 and not record["is_share"]
