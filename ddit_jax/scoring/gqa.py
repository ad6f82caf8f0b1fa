"""GQA from its files."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from ddit_jax.errors import InputError
from ddit_jax.evaluation import gqa
from ddit_jax.scoring import records
from ddit_jax.scoring.scored import ItemScores, Scored

_FIELDS = {
  "question": records.TEXT,
  "imageId": records.ID,
  "answer": records.TEXT,
  "isBalanced": (bool,),
  "types": (dict,),
  "groups": (dict,),
  "semantic": (list,),
  "entailed": (list,),
}
_TYPES = {
  "structural": records.TEXT,
  "semantic": records.TEXT,
  "detailed": records.TEXT,
}
_OPERATION = {"operation": records.TEXT, "argument": records.TEXT}


def gqa_files(
  predictions: pathlib.Path, references: Sequence[pathlib.Path]
) -> Scored:
  """GQA's metrics over the balanced questions, in per cent.

  Args:
    predictions: [{questionId, prediction}].
    references: the questions, an object by id; and perhaps the choices,
      {id: {valid, plausible}}, without which validity and plausibility are
      left out (they are not published for testdev).
  """
  questions = read_questions(references[0])
  choices = read_choices(references[1]) if len(references) > 1 else None
  fields = {"questionId": records.TEXT, "prediction": records.TEXT}
  answer_of, notes = records.last_by_id(
    records.read_records(predictions, fields), "questionId", "prediction"
  )
  scored = score_gqa(questions, answer_of, choices)
  return Scored(
    figures=scored.figures, items=scored.items, notes=notes + scored.notes
  )


def score_gqa(
  questions: gqa.Questions,
  answer_of: Mapping[str, str],
  choices: Mapping[str, Mapping[str, Sequence[str]]] | None,
) -> Scored:
  """Scores predictions by question id; see `gqa_files`."""
  asked = gqa.balanced(questions)
  missing = [key for key in asked if key not in answer_of]
  if not asked or missing:
    raise InputError(
      f"{len(missing)} of {len(asked)} balanced questions have no prediction "
      f"({records.first_few(missing)}): the official script stops here"
    )
  figures, notes = gqa.accuracies(questions, answer_of), []
  if unknown := set(answer_of) - set(questions):
    notes.append(f"{len(unknown)} predictions for other questions are not used")
  entailed = {other for one in asked.values() for other in one["entailed"]}
  if open_ones := entailed - set(answer_of) | entailed - set(questions):
    notes.append(
      f"no consistency: {len(open_ones)} entailed questions have no "
      "prediction; the official script's --consistency stops here"
    )
  else:
    figures["consistency"] = gqa.consistency(questions, answer_of)
  if choices is None:
    notes.append(
      "no validity, no plausibility: give the choices as second reference; the "
      "official script prints 0 without them"
    )
  else:
    if lacking := [key for key in asked if key not in choices]:
      raise InputError(
        f"the choices lack {len(lacking)} of {len(asked)} balanced questions "
        f"({records.first_few(lacking)}): the official script stops here"
      )
    figures |= gqa.choice_shares(questions, answer_of, choices)
  figures["distribution"] = gqa.distribution(questions, answer_of)
  items = ItemScores(
    ids=tuple(asked),
    groups=tuple(str(one["imageId"]) for one in asked.values()),
    scores=tuple(
      100.0 * gqa.is_right(one, answer_of[key]) for key, one in asked.items()
    ),
  )
  return Scored(figures=figures, items={"accuracy": items}, notes=tuple(notes))


def read_questions(path: pathlib.Path) -> dict[str, Mapping[str, Any]]:
  """The questions by id."""
  found = _object(path)
  for key, one in found.items():
    where = f"{path}, question {key!r}"
    records.check_fields(one, _FIELDS, where=where)
    records.check_fields(one["types"], _TYPES, where=f"{where}, types")
    for operation in one["semantic"]:
      records.check_fields(operation, _OPERATION, where=f"{where}, semantic")
    if not all(isinstance(other, str) for other in one["entailed"]):
      raise InputError(f"{where}: entailed must be a list of ids")
    group = one["groups"].get("global", 0)
    if group is not None and not isinstance(group, str):
      raise InputError(f'{where}: groups needs "global", a text or null')
  return found


def read_choices(path: pathlib.Path) -> dict[str, Mapping[str, Sequence[str]]]:
  """The valid and plausible answers by question id."""
  found = _object(path)
  for key, one in found.items():
    records.check_fields(
      one,
      {"valid": (list,), "plausible": (list,)},
      where=f"{path}, choices of {key!r}",
    )
  return found


def _object(path: pathlib.Path) -> dict[str, Any]:
  body = records.read_any(path)
  if not isinstance(body, dict) or not body:
    raise InputError(f"{path} must hold an object, question id to its entry")
  return body
