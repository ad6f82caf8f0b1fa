"""Metrics that are named as those of published benchmarks: CIDEr, MME, GQA."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float64

from ddit_jax.digits import grammar
from ddit_jax.digits.benchmark_sets import GqaItem
from ddit_jax.digits.evaluation_sets import CaptionItem, QuestionItem
from ddit_jax.digits.metrics import (
  Metrics,
  check_lengths,
  held_out_rows,
  metric_record,
  other_items,
)
from ddit_jax.evaluation import gqa, mme
from ddit_jax.evaluation.caption_scores import cider

_MOST_POINTS = 200.0


def cider_metrics(
  items: Sequence[CaptionItem], captions: Sequence[str], *, seed: int
) -> Metrics:
  """CIDEr-D against five captions of the grammar, from 0 to 10.

  The oracle is a sixth one, the prior baseline the same captions about other
  scenes.

  Args:
    items: the scenes.
    captions: one generated caption per scene.
    seed: of the shuffle and the bootstrap.
  """
  check_lengths(items, captions, "captions")
  said = [grammar.references(item.scene, seed=0, count=6) for item in items]
  wanted = [texts[:5] for texts in said]
  others = other_items(
    [item.scene for item in items], np.random.default_rng(seed)
  )
  record = metric_record(
    cider(captions, wanted),
    oracle=cider([texts[5] for texts in said], wanted).mean(),
    prior_baseline=cider([captions[one] for one in others], wanted).mean(),
    seed=seed,
  )
  return {"caption/cider": record | {"is_share": False}}


def mme_metrics(
  items_of: Mapping[str, Sequence[QuestionItem]],
  answers_of: Mapping[str, Sequence[str]],
  *,
  seed: int = 0,
) -> Metrics:
  """ "mme/<subtask>" and "mme/total", each as a share of its most points.

  MME gives an image 200 points for two right answers, 50 for one. The prior
  baseline says "yes" to everything. Intervals are of a bootstrap over images.

  Args:
    items_of: from `benchmark_sets.mme_items`.
    answers_of: a generated answer for each of those questions.
    seed: of the bootstrap.
  """
  shares = {}
  for subtask, items in items_of.items():
    check_lengths(items, answers_of[subtask], f"{subtask} answers")
    shares[subtask] = _points(items, answers_of[subtask]) / _MOST_POINTS
  # One of both answers is right.
  facts = {"oracle": 1.0, "prior_baseline": 0.25, "seed": seed}
  found = {
    f"mme/{subtask}": metric_record(values, **facts)
    for subtask, values in shares.items()
  }
  strata = [name for name, values in shares.items() for _ in values]
  values = np.concatenate(list(shares.values()))
  return found | {"mme/total": metric_record(values, strata=strata, **facts)}


def _points(
  items: Sequence[QuestionItem], answers: Sequence[str]
) -> Float64[np.ndarray, " images"]:
  """MME's points of each image."""
  lines = [
    mme.Line(image=str(row // 2), label=item.question.answer, response=answer)
    for row, (item, answer) in enumerate(zip(items, answers, strict=True))
  ]
  pairs = mme.image_pairs(lines)
  return np.array([points for _, points in mme.image_scores(pairs)])


def gqa_metrics(
  items: Sequence[GqaItem],
  answers: Sequence[str],
  *,
  prior_answers: Mapping[str, str],
  seed: int = 0,
) -> Metrics:
  """ "gqa/accuracy", "/binary", "/open" and "/consistency".

  GQA compares letter for letter. Consistency is over the right answers that
  entail others: the accuracy of those. Intervals come from a bootstrap over
  images.

  Args:
    items: from `benchmark_sets.gqa_items`.
    answers: a generated answer for each.
    prior_answers: see `text_scores.answer_metrics`.
    seed: of the bootstrap.
  """
  check_lengths(items, answers, "answers")
  blind = [prior_answers[item.question.kind] for item in items]
  right, by_chance = (_right(items, given) for given in (answers, blind))
  scenes = [item.scene for item in items]
  is_open = np.array([item.question.answer_type != "yes/no" for item in items])
  rows_of = {
    "binary": np.flatnonzero(~is_open),
    "open": np.flatnonzero(is_open),
  }
  cells = held_out_rows([item.is_held_out for item in items])
  rows_of |= {f"accuracy{suffix}": rows for suffix, rows in cells.items()}
  found = {
    f"gqa/{name}": metric_record(
      right[rows],
      oracle=1.0,
      prior_baseline=by_chance[rows].mean(),
      groups=[scenes[row] for row in rows],
      seed=seed,
    )
    for name, rows in rows_of.items()
  }
  consistency = _consistency(items, right, by_chance, seed=seed)
  return found | {"gqa/consistency": consistency}


def _consistency(
  items: Sequence[GqaItem],
  right: Float64[np.ndarray, " items"],
  by_chance: Float64[np.ndarray, " items"],
  *,
  seed: int,
) -> dict:
  """The accuracy of what right answers entail, and of those without image."""
  rows = [row for row, item in enumerate(items) if item.entailed]
  follow, blindly = (
    np.array([given[list(items[row].entailed)].mean() for row in rows])
    for given in (right, by_chance)
  )
  weights = by_chance[rows]
  return metric_record(
    follow,
    weights=right[rows],
    oracle=1.0,
    prior_baseline=(blindly * weights).sum() / max(weights.sum(), 1),
    groups=[items[row].scene for row in rows],
    seed=seed,
  )


def _right(
  items: Sequence[GqaItem], answers: Sequence[str]
) -> Float64[np.ndarray, " items"]:
  pairs = zip(items, answers, strict=True)
  return np.array(
    [
      float(gqa.is_right({"answer": item.question.answer}, answer))
      for item, answer in pairs
    ]
  )
