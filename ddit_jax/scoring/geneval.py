"""GenEval from detections, or from the verdicts of the published evaluator."""

import json
import pathlib
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ddit_jax.errors import InputError, first_few
from ddit_jax.evaluation import geneval
from ddit_jax.evaluation.vqa_accuracy import mean
from ddit_jax.scoring import records
from ddit_jax.scoring.scored import ItemScores, Scored

_IMAGES_PER_PROMPT = 4
_PROMPT_FOLDER = re.compile(r"(\d+)/samples/\d+\.png")
_CLAUSE = {"class": records.TEXT, "count": (int,)}
_RELATIONS = ("left of", "right of", "above", "below")


@dataclass(frozen=True, kw_only=True)
class _Judged:
  """One image and the verdict on it.

  Attributes:
    filename: below the folder of images.
    tag: its task.
    prompt: what tells prompts apart, the metadata.
    is_correct: the verdict.
  """

  filename: str
  tag: str
  prompt: str
  is_correct: bool


def geneval_files(
  predictions: pathlib.Path, references: Sequence[pathlib.Path]
) -> Scored:
  """The six task scores and their plain mean, as fractions.

  Args:
    predictions: a line for each image. Either {filename, detections}, with
      filename 00000/samples/0000.png and detections {class: [[left, top,
      right, bottom, score, colour]]}, the colour null if not determined; or
      the results.jsonl of the published evaluator, {filename, tag, correct,
      metadata}.
    references: for detections evaluation_metadata.jsonl, a line for each
      prompt. Lines of some of the prompts have a "number", from 0, that says
      which.
  """
  lines = records.read_lines(predictions, {"filename": records.TEXT})
  records.no_repeats(
    [one["filename"] for one in lines],
    what="files",
    official="the published evaluator writes one line an image",
  )
  has_verdicts = [("correct" in one) for one in lines]
  if any(has_verdicts) != all(has_verdicts):
    raise InputError(f"{predictions}: some lines have a verdict, others do not")
  if all(has_verdicts):
    return _score_verdicts([_verdict(one, predictions) for one in lines])
  if not references:
    raise InputError(
      "detections are judged by evaluation_metadata.jsonl: give it with "
      "--references"
    )
  prompts = _read_prompts(references[0])
  scored = _score_verdicts(
    [_judged(one, prompts, predictions) for one in lines]
  )
  return Scored(
    figures=scored.figures,
    items=scored.items,
    notes=scored.notes + _about_prompts(lines, prompts),
  )


def _read_prompts(path: pathlib.Path) -> dict[int, Mapping[str, Any]]:
  """The metadata of each prompt by its number."""
  rows = records.read_lines(path, {})
  prompts = {}
  for place, row in enumerate(rows):
    where = f"{path}, object {place + 1}"
    metadata = checked_metadata(row, where)
    if "number" in metadata:
      records.check_fields(metadata, {"number": (int,)}, where=where)
    prompts[metadata.get("number", place)] = metadata
  if len(prompts) < len(rows):
    raise InputError(f"{path} gives several prompts the same number")
  return prompts


def _score_verdicts(images: Sequence[_Judged]) -> Scored:
  """Task scores, overall, and the shares of images and of prompts.

  "prompts" is the share of prompts with any correct image.
  """
  tags = [one.tag for one in images]
  right = [one.is_correct for one in images]
  of_prompt = defaultdict(list)
  for one in images:
    of_prompt[one.prompt].append(one.is_correct)
  tasks = geneval.task_scores(tags, right)
  overall = tasks.pop("overall")
  notes = ()
  if missing := sorted(set(geneval.TASKS) - set(tasks)):
    notes = (f"overall is the mean of {len(tasks)} tasks, without {missing}",)
  return Scored(
    figures={
      "overall": overall,
      "tasks": tasks,
      "images": mean(right),
      "prompts": mean(any(some) for some in of_prompt.values()),
      "num_images": len(images),
      "num_prompts": len(of_prompt),
    },
    items={
      "overall": ItemScores.of(
        (one.filename, one.prompt, float(one.is_correct), one.tag)
        for one in images
      )
    },
    notes=notes,
  )


def checked_metadata(metadata: Any, where: str) -> Mapping[str, Any]:
  """A line of evaluation_metadata.jsonl, after its clauses are checked."""
  records.check_fields(metadata, {"tag": records.TEXT}, where=where)
  for name in ("include", "exclude"):
    clauses = metadata.get(name, [])
    if not isinstance(clauses, list):
      raise InputError(f"{where}: {name} must be a list")
    for number, clause in enumerate(clauses):
      records.check_fields(clause, _CLAUSE, where=f"{where}, {name}")
      position = clause.get("position")
      if position is not None and not _is_position(position, number):
        raise InputError(
          f"{where}: position must be [{', '.join(_RELATIONS)}; index of an "
          f"earlier clause], got {position!r:.80}"
        )
  return metadata


def detections_of(
  boxes: Mapping[str, Sequence], where: str
) -> list[geneval.Detection]:
  """Detections from {class: [[left, top, right, bottom, score, colour?]]}."""
  if not isinstance(boxes, dict):
    raise InputError(f"{where}: detections must be an object, class to boxes")
  found = []
  for name, rows in boxes.items():
    for row in rows if isinstance(rows, list) else [rows]:
      if not _is_box(row):
        raise InputError(
          f"{where}, {name}: a box is [left, top, right, bottom, score, colour "
          f"or null], got {row!r:.80}"
        )
      found.append(
        geneval.Detection(
          class_name=name,
          box=tuple(row[:4]),
          score=row[4],
          color=row[5] if len(row) > 5 else None,
        )
      )
  return found


def _is_position(position: Any, number: int) -> bool:
  return (
    isinstance(position, list)
    and len(position) == 2
    and position[0] in _RELATIONS
    and type(position[1]) is int
    and 0 <= position[1] < number
  )


def _is_box(row: Any) -> bool:
  return (
    isinstance(row, list)
    and len(row) in (5, 6)
    and all(type(one) in records.NUMBER and abs(one) < 1e9 for one in row[:5])
    and (len(row) == 5 or row[5] is None or isinstance(row[5], str))
  )


def _verdict(line: Mapping[str, Any], path: pathlib.Path) -> _Judged:
  fields = {"tag": records.TEXT, "correct": (bool,), "metadata": (str, dict)}
  records.check_fields(line, fields, where=f"{path}, {line['filename']!r}")
  metadata = line["metadata"]
  return _Judged(
    filename=line["filename"],
    tag=line["tag"],
    prompt=metadata if isinstance(metadata, str) else json.dumps(metadata),
    is_correct=line["correct"],
  )


def _judged(
  line: Mapping[str, Any],
  prompts: Mapping[int, Mapping[str, Any]],
  path: pathlib.Path,
) -> _Judged:
  where = f"{path}, {line['filename']!r}"
  records.check_fields(line, {"detections": (dict,)}, where=where)
  number = _prompt_number(line["filename"])
  if number not in prompts:
    raise InputError(
      f"{where}: the name must be NUMBER/samples/NUMBER.png with a prompt of "
      f"{min(prompts)} to {max(prompts)} that the metadata have"
    )
  metadata = prompts[number]
  verdict = geneval.judge(metadata, detections_of(line["detections"], where))
  return _Judged(
    filename=line["filename"],
    tag=metadata["tag"],
    prompt=json.dumps(metadata),
    is_correct=verdict.is_correct,
  )


def _prompt_number(filename: str) -> int | None:
  # A name may be longer than what Python turns into a number.
  match = _PROMPT_FOLDER.fullmatch(filename[-100:])
  return int(match[1]) if match else None


def _about_prompts(
  lines: Sequence[Mapping], prompts: Mapping[int, Mapping]
) -> tuple[str, ...]:
  """Refuses prompts without images; says which have not four."""
  counts = Counter(_prompt_number(one["filename"]) for one in lines)
  if missing := [n for n in prompts if not counts[n]]:
    raise InputError(
      f"{len(missing)} of {len(prompts)} prompts have no image "
      f"({first_few(missing)}): the published evaluator would leave them out"
    )
  if other := [n for n in sorted(counts) if counts[n] != _IMAGES_PER_PROMPT]:
    return (
      f"{len(other)} prompts have not {_IMAGES_PER_PROMPT} images "
      f"({first_few(other)})",
    )
  return ()
