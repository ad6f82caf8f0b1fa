"""Generated answers into metrics: by kind of question, VQA v2's and POPE's."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from ddit_jax.digits.exam_sets import QuestionItem
from ddit_jax.digits.metric_record import (
  Metrics,
  check_lengths,
  metric_record,
  rows_by,
)
from ddit_jax.digits.pools import CAPTION, ImageToTextPool
from ddit_jax.evaluation import yes_no
from ddit_jax.evaluation.vqa_accuracy import normalise, question_accuracy

_POPE_SCORES = ("accuracy", "precision", "recall", "f1", "yes_ratio")


def answer_metrics(
  items: Sequence[QuestionItem],
  answers: Sequence[str],
  *,
  blind: Mapping[str, str],
  seed: int = 0,
) -> Metrics:
  """Scores generated answers.

  "vqa/<kind>" is the share of answers equal to the canonical one, both in
  VQA v2's normal form. "vqa/accuracy" and "vqa/accuracy/<answer_type>" are
  VQA v2's agreement with ten annotators. The ceiling is what the canonical
  answer scores: 1 by kind, and its agreement with the annotators.

  Args:
    items: the questions.
    answers: one generated answer a question.
    blind: for each kind of question, the answer of a model that sees no image
      (see `most_frequent_answers`); what it scores is the baseline.
    seed: of the bootstrap.

  Raises:
    ValueError: for unequal lengths, no items, or a kind without blind answer.
  """
  check_lengths(items, answers, "answers")
  kinds = [item.question.kind for item in items]
  if missing := sorted(set(kinds) - set(blind)):
    raise ValueError(
      f"no blind answer for questions of kind {missing}: the training pool "
      "has none of them, so neither can a model be asked"
    )
  given = {
    "value": answers,
    "baseline": [blind[kind] for kind in kinds],
    "ceiling": [item.question.answer for item in items],
  }
  exact = {k: _is_canonical(v, items) for k, v in given.items()}
  agreed = {k: _agreement(v, items) for k, v in given.items()}
  metrics = {"vqa/accuracy": _record(agreed, np.arange(len(items)), seed=seed)}
  answer_types = [item.question.answer_type for item in items]
  for answer_type, rows in rows_by(answer_types).items():
    metrics[f"vqa/accuracy/{answer_type}"] = _record(agreed, rows, seed=seed)
  for kind, rows in rows_by(kinds).items():
    metrics[f"vqa/{kind}"] = _record(exact, rows, seed=seed)
  return metrics


def most_frequent_answers(pool: ImageToTextPool) -> dict[str, str]:
  """The answer that training gave most often to each kind of question.

  Of equally frequent answers the first in the alphabet.
  """
  counts: dict[str, Counter] = defaultdict(Counter)
  for kind, text in zip(pool.kinds, pool.texts, strict=True):
    if kind != CAPTION:
      counts[kind][text] += 1
  return {
    kind: min(found, key=lambda text: (-found[text], text))
    for kind, found in counts.items()
  }


def pope_metrics(
  items_by_split: Mapping[str, Sequence[QuestionItem]],
  answers_by_split: Mapping[str, Sequence[str]],
  *,
  seed: int = 0,
) -> Metrics:
  """POPE's scores of each split, and the means over the splits.

  "pope/<split>/<score>" and "pope/<score>" for accuracy, precision, recall,
  f1 and yes_ratio (the share of "yes"); a score whose denominator is zero is
  0. The ceiling is what the right answers score and the baseline what "yes"
  to everything does. Intervals come from a bootstrap over images.

  Args:
    items_by_split: from exam_sets.pope_items.
    answers_by_split: a generated answer for each of those questions.
    seed: of the bootstrap.

  Raises:
    ValueError: if the splits or the numbers of answers differ.
  """
  if not items_by_split or set(items_by_split) != set(answers_by_split):
    raise ValueError(
      f"questions of splits {sorted(items_by_split)} but answers of "
      f"{sorted(answers_by_split)}: answer every split, and at least one"
    )
  for split, items in items_by_split.items():
    check_lengths(items, answers_by_split[split], f"{split} answers")
  metrics = {}
  for split, items in items_by_split.items():
    only = {split: items}, {split: answers_by_split[split]}
    for score in _POPE_SCORES:
      metrics[f"pope/{split}/{score}"] = _pope_record(score, *only, seed=seed)
  for score in _POPE_SCORES:
    metrics[f"pope/{score}"] = _pope_record(
      score, items_by_split, answers_by_split, seed=seed
    )
  return metrics


def _pope_record(
  score: str,
  items_by_split: Mapping[str, Sequence[QuestionItem]],
  answers_by_split: Mapping[str, Sequence[str]],
  *,
  seed: int,
) -> dict:
  """The record of one score, the mean over the splits."""
  labels, said, strata, groups = [], [], [], []
  ceilings, baselines = [], []
  for split, items in items_by_split.items():
    right = [item.question.answer for item in items]
    labels += right
    said += [yes_no.parse_yes_no(text) for text in answers_by_split[split]]
    strata += [split] * len(items)
    groups += [item.scene for item in items]
    ceilings.append(getattr(yes_no.yes_no_scores(right, right), score))
    all_yes = ["yes"] * len(items)
    baselines.append(getattr(yes_no.yes_no_scores(right, all_yes), score))
  values, weights = _as_weighted_mean(
    score, np.array(labels) == "yes", np.array(said) == "yes"
  )
  return metric_record(
    values,
    weights=weights,
    ceiling=np.mean(ceilings),
    baseline=np.mean(baselines),
    groups=groups,
    strata=strata,
    seed=seed,
  )


def _as_weighted_mean(
  score: str, is_yes: np.ndarray, says_yes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Values and weights whose weighted mean is the score.

  Precision, for example, is the mean of "is right" over what says yes; F1 the
  mean over both sides of 2 hits / (says yes + is yes).
  """
  is_hit = is_yes & says_yes
  everything = np.ones(len(is_yes))
  return {
    "accuracy": (is_yes == says_yes, everything),
    "precision": (is_hit, says_yes.astype(float)),
    "recall": (is_hit, is_yes.astype(float)),
    "f1": (is_hit, says_yes.astype(float) + is_yes),
    "yes_ratio": (says_yes, everything),
  }[score]


def _is_canonical(
  answers: Sequence[str], items: Sequence[QuestionItem]
) -> np.ndarray:
  """Where the answer is the right one, float [n] of 0 and 1."""
  return np.array(
    [
      float(normalise(answer) == normalise(item.question.answer))
      for answer, item in zip(answers, items, strict=True)
    ]
  )


def _agreement(
  answers: Sequence[str], items: Sequence[QuestionItem]
) -> np.ndarray:
  """VQA v2's accuracy of each answer, float [n]."""
  return np.array(
    [
      question_accuracy(answer, item.annotators)
      for answer, item in zip(answers, items, strict=True)
    ]
  )


def _record(
  scores: Mapping[str, np.ndarray], rows: np.ndarray, *, seed: int
) -> dict:
  return metric_record(
    scores["value"][rows],
    ceiling=scores["ceiling"][rows].mean(),
    baseline=scores["baseline"][rows].mean(),
    seed=seed,
  )
