"""MME from its folder of answers."""

import pathlib
from collections.abc import Mapping, Sequence

from ddit_jax.errors import InputError
from ddit_jax.evaluation import mme
from ddit_jax.evaluation.yes_no import LABELS
from ddit_jax.scoring import records
from ddit_jax.scoring.scored import ItemScores, Scored


def mme_folder(
  predictions: pathlib.Path, references: Sequence[pathlib.Path]
) -> Scored:
  """The scores of MME's subtasks, and the totals of perception and cognition.

  Args:
    predictions: a folder with SUBTASK.txt, lines of image, question, label and
      response with tabs between; two lines in a row are of one image.
    references: none, the labels are in the predictions.
  """
  del references
  if not predictions.is_dir():
    raise InputError(
      f"{predictions} is not a folder: MME's answers are a folder of "
      "SUBTASK.txt files"
    )
  files = {path.stem: path for path in sorted(predictions.glob("*.txt"))}
  if unknown := set(files) - set(mme.SUBTASKS):
    raise InputError(
      f"{files[sorted(unknown)[0]]} is none of MME's subtasks: there are "
      f"{', '.join(mme.SUBTASKS)}"
    )
  if not files:
    raise InputError(
      f"{predictions} has no SUBTASK.txt, e.g. existence.txt: the official "
      "tool stops without any of the 14"
    )
  return _score_mme(
    {name: _mme_lines(files[name]) for name in mme.SUBTASKS if name in files}
  )


def _score_mme(subtasks: Mapping[str, Sequence[mme.Line]]) -> Scored:
  """Scores the subtasks; a total only where all of its subtasks are there."""
  pairs = {name: mme.image_pairs(lines) for name, lines in subtasks.items()}
  figures = {
    "subtasks": {name: mme.score(some) for name, some in pairs.items()}
  }
  items, notes = {}, []
  for total, names in mme.TOTALS.items():
    present = [name for name in names if name in pairs]
    if len(present) < len(names):
      notes.append(
        f"{len(present)} of the {len(names)} subtasks of {total} are there: "
        "no total; the official tool stops"
      )
      continue
    figures[total] = sum(figures["subtasks"][name] for name in names)
    items[total] = ItemScores.of(
      (f"{name}/{number}", f"{name}/{image}", len(names) * score, name)
      for name in names
      for number, (image, score) in enumerate(mme.image_scores(pairs[name]), 1)
    )
  return Scored(figures=figures, items=items, notes=tuple(notes))


def _mme_lines(path: pathlib.Path) -> list[mme.Line]:
  lines = []
  for number, line in enumerate(records.read_text(path).split("\n"), 1):
    if not line:
      continue
    fields = line.split("\t")
    where = f"{path}, line {number}"
    if len(fields) != 4:
      raise InputError(
        f"{where} has {len(fields)} fields: expected image, question, label "
        "and response with tabs between; the official tool stops here"
      )
    image, _, label, response = fields
    if label.lower() not in LABELS:
      raise InputError(
        f"{where}: the label must be Yes or No, got {label!r:.80}; the "
        "official tool stops with an assertion"
      )
    lines.append(mme.Line(image=image, label=label.lower(), response=response))
  try:
    mme.image_pairs(lines)
  except ValueError as error:
    raise InputError(f"{path}: {error}") from error
  return lines
