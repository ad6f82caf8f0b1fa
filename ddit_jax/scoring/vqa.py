"""VQA v2, the D-DiT release's VQA v2, TextVQA and OK-VQA from their files."""

import json
import pathlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ddit_jax.errors import InputError
from ddit_jax.evaluation import vqa_accuracy
from ddit_jax.evaluation.vqa_accuracy import Rule, mean
from ddit_jax.scoring import records
from ddit_jax.scoring.scored import ItemScores, Scored

_DECIMALS = 2
_ANNOTATION = {
  "question_id": records.ID,
  "image_id": records.ID,
  "answers": (list,),
}
_STOPS = "the official scorer stops with an assertion"


@dataclass(frozen=True, kw_only=True)
class Annotation:
  """One question as annotated.

  Attributes:
    question_id: as in the file.
    image_id: as in the file.
    answers: of the annotators, usually ten.
    identities: what else the file says of each answer.
    types: "question_type" and "answer_type", if the file names them.
  """

  question_id: int | str
  image_id: int | str
  answers: tuple[str, ...]
  identities: tuple[str, ...]
  types: Mapping[str, str]


def read_annotations(
  path: pathlib.Path, *, answer: str = "answer"
) -> list[Annotation]:
  """The annotations of a VQA, OK-VQA or TextVQA file.

  Args:
    path: {"annotations": [...]} as in VQA, or {"data": [...]} as in TextVQA,
      whose answers are plain texts.
    answer: the field that holds an annotator's answer.

  Raises:
    InputError: another format, or a question that is annotated twice.
  """
  body = records.read_any(path)
  found = body if isinstance(body, dict) else {}
  names = [name for name in ("annotations", "data") if name in found]
  if not names:
    raise InputError(
      f'{path} must hold an object with the list "annotations" (VQA, OK-VQA) '
      'or "data" (TextVQA)'
    )
  where = f"{path}, {names[0]}"
  found = [
    _annotation(record, answer, where=f"{where} {number}")
    for number, record in enumerate(
      records.checked(body[names[0]], _ANNOTATION, where=where), 1
    )
  ]
  records.no_repeats(
    [one.question_id for one in found],
    what="annotated questions",
    official="the official scorer keeps the last; remove the others",
  )
  return found


def read_results(
  path: pathlib.Path,
) -> tuple[dict[Any, str], tuple[str, ...]]:
  """(answer of each question_id, notes) of [{question_id, answer}]."""
  fields = {"question_id": records.ID, "answer": records.TEXT}
  return records.last_by_id(
    records.read_records(path, fields), "question_id", "answer"
  )


def score_vqa(
  annotations: Sequence[Annotation],
  answer_of: Mapping[Any, str],
  rule: Rule,
  *,
  decimals: int | None = _DECIMALS,
) -> Scored:
  """Accuracy in per cent, overall and by the types of question and answer.

  Args:
    annotations: of all questions.
    answer_of: the prediction for each question_id.
    rule: how one answer is scored.
    decimals: of the rounded figures, 2 by default as in the official scorer;
      None leaves them as they are.

  Raises:
    InputError: questions without prediction, or predictions without question.
  """
  records.require_same_ids(
    [one.question_id for one in annotations],
    answer_of,
    what="questions",
    official=_STOPS,
  )
  scores = [
    rule(answer_of[one.question_id], one.answers, one.identities)
    for one in annotations
  ]
  figures: dict[str, Any] = {"accuracy": _percent(scores, decimals)}
  for name in ("question_type", "answer_type"):
    of_type = defaultdict(list)
    for one, score in zip(annotations, scores, strict=True):
      if name in one.types:
        of_type[one.types[name]].append(score)
    if of_type:
      figures[f"accuracy_by_{name}"] = {
        kind: _percent(some, decimals) for kind, some in of_type.items()
      }
  items = ItemScores(
    ids=tuple(str(one.question_id) for one in annotations),
    groups=tuple(str(one.image_id) for one in annotations),
    scores=tuple(100 * score for score in scores),
  )
  return Scored(figures=figures, items={"accuracy": items})


def vqav2(
  predictions: pathlib.Path, references: Sequence[pathlib.Path]
) -> Scored:
  """The official accuracy of VQA v2."""
  return _scored(predictions, references[0], vqa_accuracy.vqav2)


def vqav2_ddit_release(
  predictions: pathlib.Path, references: Sequence[pathlib.Path]
) -> Scored:
  """The accuracy that the D-DiT release prints: looser by many points.

  It is the mean of the questions' values, each rounded to two decimals.
  """
  scored = _scored(predictions, references[0], vqa_accuracy.ddit_release)
  items = scored.items["accuracy"]
  rounded = tuple(round(score, _DECIMALS) for score in items.scores)
  return Scored(
    figures=dict(scored.figures) | {"accuracy": mean(rounded)},
    items={
      "accuracy": ItemScores(ids=items.ids, groups=items.groups, scores=rounded)
    },
    notes=(*scored.notes, "not the official rules of VQA v2"),
  )


def textvqa(
  predictions: pathlib.Path, references: Sequence[pathlib.Path]
) -> Scored:
  """The accuracy of the TextVQA evaluator, in per cent and not rounded."""
  return _scored(
    predictions, references[0], vqa_accuracy.textvqa, decimals=None
  )


def okvqa(
  predictions: pathlib.Path, references: Sequence[pathlib.Path]
) -> Scored:
  """The official accuracy against both fields of OK-VQA's answers.

  "answer" is stemmed ("racing" is "race"), so predictions that are not
  stemmed lose against it; "raw_answer" is what the annotators wrote.
  """
  answer_of, notes = read_results(predictions)
  figures, items = {}, {}
  for field in ("answer", "raw_answer"):
    annotations = read_annotations(references[0], answer=field)
    scored = score_vqa(annotations, answer_of, vqa_accuracy.vqav2)
    suffix = "" if field == "answer" else "_raw_answer"
    figures |= {name + suffix: value for name, value in scored.figures.items()}
    items |= {name + suffix: value for name, value in scored.items.items()}
  return Scored(figures=figures, items=items, notes=notes)


def _scored(
  predictions: pathlib.Path,
  annotations: pathlib.Path,
  rule: Rule,
  *,
  decimals: int | None = _DECIMALS,
) -> Scored:
  answer_of, notes = read_results(predictions)
  scored = score_vqa(
    read_annotations(annotations), answer_of, rule, decimals=decimals
  )
  return Scored(figures=scored.figures, items=scored.items, notes=notes)


def _percent(scores: Sequence[float], decimals: int | None) -> float:
  percent = mean(scores, scale=100)
  return percent if decimals is None else round(percent, decimals)


def _annotation(record: Mapping, answer: str, *, where: str) -> Annotation:
  answers = record["answers"]
  if answers and all(isinstance(one, str) for one in answers):
    # TextVQA writes the texts alone.
    answers = [
      {"answer": one, "answer_id": number} for number, one in enumerate(answers)
    ]
  records.checked(answers, {answer: records.TEXT}, where=f"{where}, answer")
  types = {
    name: record[name]
    for name in ("question_type", "answer_type")
    if name in record
  }
  records.check_fields(types, dict.fromkeys(types, records.TEXT), where=where)
  return Annotation(
    question_id=record["question_id"],
    image_id=record["image_id"],
    answers=tuple(one[answer] for one in answers),
    identities=_identities(answers, answer),
    types=types,
  )


def _identities(answers: Sequence[Mapping], answer: str) -> tuple[str, ...]:
  """Texts that are equal where all but the answers is equal."""
  ids = tuple(json.dumps(one.get("answer_id")) for one in answers)
  if len(set(ids)) == len(ids):
    return ids
  return tuple(
    json.dumps({k: v for k, v in one.items() if k != answer}, sort_keys=True)
    for one in answers
  )
