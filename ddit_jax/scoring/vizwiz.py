"""VizWiz from its files: both releases of its scorer, and answerability."""

import pathlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64

from ddit_jax.errors import InputError
from ddit_jax.evaluation import vqa_accuracy
from ddit_jax.evaluation.vqa_accuracy import mean
from ddit_jax.scoring import records
from ddit_jax.scoring.scored import ItemScores, Scored

_DECIMALS = 2
_ANNOTATION = {"image": records.TEXT, "answers": (list,)}
_STOPS = "the official scorer stops with an assertion"


def vizwiz(
  predictions: pathlib.Path, references: Sequence[pathlib.Path]
) -> Scored:
  """Both releases' accuracies; "accuracy" is the later one, which is lower.

  Args:
    predictions: [{image, answer, answerable?}]; answerable in [0, 1].
    references: one file, [{image, answers, answer_type, answerable}].
  """
  annotations = _read_annotations(references[0])
  images = tuple(one["image"] for one in annotations)
  fields = {"image": records.TEXT, "answer": records.TEXT}
  results = records.read_records(predictions, fields)
  answer_of, notes = records.last_by_id(results, "image", "answer")
  records.require_same_ids(images, answer_of, what="images", official=_STOPS)
  figures, items = {}, {}
  for suffix, rule in (
    ("", vqa_accuracy.vizwiz),
    ("_first_release", vqa_accuracy.vizwiz_first_release),
  ):
    scores = [
      rule(answer_of[one["image"]], [a["answer"] for a in one["answers"]])
      for one in annotations
    ]
    for name, value in _means(annotations, scores).items():
      figures[name + suffix] = value
    items["accuracy" + suffix] = ItemScores(
      ids=images,
      groups=images,
      scores=tuple(100 * score for score in scores),
    )
  figures |= _answerability(annotations, results)
  return Scored(figures=figures, items=items, notes=notes)


def average_precision(
  is_positive: Bool[np.ndarray, " items"], scores: Float64[np.ndarray, " items"]
) -> float:
  """Sum of precision times the step in recall, over the distinct scores.

  The rule of scikit-learn, without interpolation; 0 without positives.
  """
  if not is_positive.any():
    return 0.0
  order = np.argsort(-scores, kind="stable")
  is_last_of_equals = np.append(np.diff(scores[order]) != 0, True)
  found = np.cumsum(is_positive[order])[is_last_of_equals]
  taken = np.arange(1, len(scores) + 1)[is_last_of_equals]
  recall = found / found[-1]
  return float(np.sum(np.diff(recall, prepend=0) * found / taken))


def _read_annotations(path: pathlib.Path) -> list[records.Record]:
  annotations = records.read_records(path, _ANNOTATION)
  records.no_repeats(
    [one["image"] for one in annotations],
    what="annotated images",
    official="the official scorer keeps the last; remove the others",
  )
  for number, one in enumerate(annotations, 1):
    where = f"{path}, entry {number}, answer"
    records.checked(one["answers"], {"answer": records.TEXT}, where=where)
  return annotations


def _means(
  annotations: Sequence[Mapping], scores: Sequence[float]
) -> dict[str, Any]:
  of_type = defaultdict(list)
  for one, score in zip(annotations, scores, strict=True):
    if isinstance(one.get("answer_type"), str):
      of_type[one["answer_type"]].append(score)
  figures: dict[str, Any] = {"accuracy": _percent(scores)}
  if of_type:
    figures["accuracy_by_answer_type"] = {
      kind: _percent(some) for kind, some in of_type.items()
    }
  return figures


def _percent(scores: Sequence[float]) -> float:
  return round(mean(scores, scale=100), _DECIMALS)


def _answerability(
  annotations: Sequence[Mapping], results: Sequence[Mapping]
) -> dict[str, float]:
  """Average precision and F1 of "unanswerable", where answerable is given."""
  given = {
    one["image"]: one["answerable"] for one in results if "answerable" in one
  }
  if not given:
    return {}
  for name, values in (
    ("answerable in the predictions", list(given.values())),
    (
      "answerable in the references",
      [a.get("answerable") for a in annotations],
    ),
  ):
    if not all(type(v) in records.NUMBER and 0 <= v <= 1 for v in values):
      raise InputError(
        f"{name} must be a number in [0, 1] everywhere, or absent"
      )
  if len(given) != len(annotations):
    raise InputError(
      f"answerable is given for {len(given)} of {len(annotations)} images: the "
      "official scorer stops; give it for all or for none"
    )
  is_positive = np.array([one["answerable"] == 0 for one in annotations])
  scores = np.array([1 - float(given[one["image"]]) for one in annotations])
  hits = int((is_positive & (scores > 0.5)).sum())
  total = int(is_positive.sum() + (scores > 0.5).sum())
  return {
    "unanswerable_average_precision": round(
      100 * average_precision(is_positive, scores), _DECIMALS
    ),
    "unanswerable_f1": round(
      100 * 2 * hits / total if total else 0.0, _DECIMALS
    ),
  }
