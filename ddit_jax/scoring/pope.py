"""POPE from its files."""

import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from ddit_jax.errors import InputError
from ddit_jax.evaluation.vqa_accuracy import mean
from ddit_jax.evaluation.yes_no import LABELS, parse_yes_no, yes_no_scores
from ddit_jax.scoring import records
from ddit_jax.scoring.scored import ItemScores, Scored

_SUFFIXES = (".json", ".jsonl")
POPE_SPLITS = ("random", "popular", "adversarial")
_MEANS = ("accuracy", "precision", "recall", "f1", "yes_ratio")


@dataclass(frozen=True, kw_only=True)
class _PopeSplit:
  """The answers to one of POPE's three files, in its order.

  Attributes:
    labels: "yes" or "no".
    images: name of each question's image.
    questions: as in the label file.
    answers: free text.
    asked: the questions that the answers repeat, where they do.
  """

  labels: tuple[str, ...]
  images: tuple[str, ...]
  questions: tuple[str, ...]
  answers: tuple[str, ...]
  asked: tuple[str | None, ...]


def pope(
  predictions: pathlib.Path, references: Sequence[pathlib.Path]
) -> Scored:
  """Accuracy, precision, recall, F1 and yes ratio of the splits, as fractions.

  Args:
    predictions: a folder with a file of {question, answer} lines for each
      split, whose names end in the split's; one such file; or, with LLaVA's
      question file among the references, one file of {question_id, text} lines.
    references: the folder of coco_pope_{random,popular,adversarial}.json or
      those files, {question_id, image, text, label} a line; and perhaps
      LLaVA's llava_pope_test.jsonl, {question_id, text, category} a line.
  """
  files = [file for path in references for file in _files(path)]
  questions = [file for file in files if "llava" in file.stem]
  labels = _by_split([file for file in files if file not in questions])
  if questions:
    answers = _llava_answers(predictions, questions[0])
  else:
    answers = {
      split: _answers(file)
      for split, file in _by_split(_files(predictions)).items()
    }
  records.require_same_ids(
    labels,
    answers,
    what="splits",
    official="the official script scores one file at a time; give a label file "
    "and an answer file for each split, whose names end in the split's",
  )
  return _score_pope(
    {split: _split(labels[split], answers[split], split) for split in labels}
  )


def _score_pope(splits: Mapping[str, _PopeSplit]) -> Scored:
  """Scores the splits, and the mean of each figure over them."""
  figures, notes, rows = {}, [], []
  for name, split in splits.items():
    scores = yes_no_scores(split.labels, split.answers)
    if scores.undefined:
      notes.append(
        f"{name}: {', '.join(scores.undefined)} divided by zero and count as "
        "0; the official script stops here"
      )
    others = sum(
      asked not in (None, question)
      for asked, question in zip(split.asked, split.questions, strict=True)
    )
    if others:
      notes.append(
        f"{name}: {others} answers repeat another question than the label "
        "file at their place; they are matched by order, as in the official "
        "script"
      )
    counts = asdict(scores)
    del counts["undefined"]
    figures[name] = counts | {"questions": len(split.labels)}
    rows += [
      (f"{name}/{number}", image, float(label == parse_yes_no(answer)), name)
      for number, (image, label, answer) in enumerate(
        zip(split.images, split.labels, split.answers, strict=True), 1
      )
    ]
  means = {
    name: mean(part[name] for part in figures.values()) for name in _MEANS
  }
  return Scored(
    figures=figures | means,
    items={"accuracy": ItemScores.of(rows)},
    notes=tuple(notes),
  )


def _files(path: pathlib.Path) -> list[pathlib.Path]:
  if path.is_dir():
    return sorted(one for one in path.iterdir() if one.suffix in _SUFFIXES)
  return [path]


def _by_split(files: Sequence[pathlib.Path]) -> dict[str, pathlib.Path]:
  """The file of each split, in the published order."""
  found = {}
  for split in POPE_SPLITS:
    named = [file for file in files if file.stem.endswith(split)]
    if len(named) > 1:
      raise InputError(f"{named[0]} and {named[1]} are both of split {split}")
    if named:
      found[split] = named[0]
  if not found and len(files) == 1:
    # A set of one's own, in the same format.
    return {"all": files[0]}
  if not found:
    raise InputError(
      f"no file of {len(files)} is of a split: names must end in random, "
      "popular or adversarial, as in coco_pope_random.json"
    )
  return found


_Answer = tuple[str, str | None]


def _answers(path: pathlib.Path) -> list[_Answer]:
  """(answer, question) of each line."""
  lines = records.read_lines(path, {"answer": records.TEXT})
  return [(one["answer"], one.get("question")) for one in lines]


def _llava_answers(
  predictions: pathlib.Path, questions: pathlib.Path
) -> dict[str, list[_Answer]]:
  """Answers by the category of their question, in the answers' order."""
  asked = records.read_lines(
    questions,
    {"question_id": records.ID, "text": records.TEXT, "category": records.TEXT},
  )
  category = {one["question_id"]: one["category"] for one in asked}
  text = {one["question_id"]: one["text"].partition("\n")[0] for one in asked}
  fields = {"question_id": records.ID, "text": records.TEXT}
  found: dict[str, list[_Answer]] = {}
  for one in records.read_lines(predictions, fields):
    key = one["question_id"]
    if key not in category:
      raise InputError(
        f"{predictions}: question_id {key!r} is not in {questions}: LLaVA's "
        "script stops here"
      )
    found.setdefault(category[key], []).append((one["text"], text[key]))
  return found


def _split(
  labels: pathlib.Path, answers: Sequence[_Answer], name: str
) -> _PopeSplit:
  lines = records.read_lines(
    labels,
    {"image": records.TEXT, "text": records.TEXT, "label": records.TEXT},
  )
  if len(lines) != len(answers):
    raise InputError(
      f"{name}: {len(answers)} answers for the {len(lines)} questions of "
      f"{labels}: the official script matches them by order; give one each"
    )
  if wrong := {one["label"] for one in lines} - set(LABELS):
    raise InputError(
      f"{labels}: labels must be yes or no, got {sorted(wrong)[0]!r}; the "
      "official script counts any other label as yes"
    )
  return _PopeSplit(
    labels=tuple(one["label"] for one in lines),
    images=tuple(one["image"] for one in lines),
    questions=tuple(one["text"] for one in lines),
    answers=tuple(answer for answer, _ in answers),
    asked=tuple(asked for _, asked in answers),
  )
