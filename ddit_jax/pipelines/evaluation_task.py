"""One benchmark to be run, and its result on one model."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from ddit_jax.errors import InputError, preparing
from ddit_jax.json_files import json_hash, write_json
from ddit_jax.protocols.item import Item
from ddit_jax.protocols.protocol import Protocol, ScoredPart
from ddit_jax.scoring.benchmarks import BENCHMARKS, report, score_files
from ddit_jax.scoring.scored import Scored

BASELINE = "baseline"
# What tells records of one's own apart: their number and prompt may not.
_RECORD_FACTS = ("record", "texts")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationTask:
  """A benchmark with its items, read before any weights.

  Attributes:
    name: of the task.
    protocol: how it is run.
    files: by role.
    hashes: of the files, see `hashed_files`.
    items: to be sampled, in this order.
    items_hash: of all items, those outside a subset too.
    is_subset: True if references must be cut to the items.
    notes: what must be said beside the figures.
    read: an item to pixels; None reads its image file.
    own_scores: figures that are not of a published scorer.
  """

  name: str
  protocol: Protocol
  files: Mapping[str, pathlib.Path]
  hashes: Mapping[pathlib.Path, str]
  items: Sequence[Item]
  items_hash: str
  is_subset: bool
  notes: tuple[str, ...] = ()
  read: Callable[[Item, int, str], UInt8[np.ndarray, "side side 3"]] | None = (
    None
  )
  own_scores: (
    Callable[[Sequence[Item], Mapping[str, Any]], dict[str, Scored]] | None
  ) = None

  @property
  def draws_own_images(self) -> bool:
    """True if images of one's own records are drawn anew."""
    return self.protocol.kind == "image" and self.read is not None

  @property
  def folder_name(self) -> str:
    """Below the folder of the results."""
    return self.name.replace(":", "_")


def items_hash(items: Sequence[Item]) -> str:
  """BLAKE2b of what each item asks, and of the record behind it."""
  rows = {
    item.key: [item.text, item.draw]
    + [item.facts[name] for name in _RECORD_FACTS if name in item.facts]
    for item in items
  }
  return json_hash(rows)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskResult:
  """A benchmark on one model.

  Attributes:
    task: what was run.
    folder: of its files.
    outputs: by key of the item.
    prompts: what the model was given, by key of the item.
    settings: how it was sampled.
    scored: figures by prefix of the part.
    waiting: a sentence for each part that lacks files.
    failed: a sentence for each part whose files could not be scored.
  """

  task: EvaluationTask
  folder: pathlib.Path
  outputs: Mapping[str, Any]
  prompts: Mapping[str, str]
  settings: Mapping[str, Any]
  scored: Mapping[str, Scored]
  waiting: tuple[str, ...]
  failed: tuple[str, ...]

  @property
  def notes(self) -> list[str]:
    """Everything that must be said beside the figures."""
    found = [*self.task.notes, *self.waiting, *self.failed]
    return found + [note for one in self.scored.values() for note in one.notes]

  def figures(self) -> dict[str, float]:
    """ "vqav2/accuracy", "vqav2/release/accuracy_by_answer_type/other", ..."""
    flat: dict[str, float] = {}
    for prefix, scored in self.scored.items():
      start = "/".join(filter(None, (self.task.name, prefix)))
      for name, value in scored.figures.items():
        if isinstance(value, Mapping):
          flat |= {f"{start}/{name}/{key}": x for key, x in value.items()}
        else:
          flat[f"{start}/{name}"] = value
    return flat


def scored_result(
  task: EvaluationTask,
  *,
  folder: pathlib.Path,
  outputs: Mapping[str, Any],
  prompts: Mapping[str, str],
  settings: Mapping[str, Any],
  predictions: pathlib.Path,
  is_baseline: bool,
) -> TaskResult:
  """Scores what can be scored, and writes it to score.json as `ddit score`.

  Args:
    task: the benchmark.
    folder: of its results.
    outputs: by key of the item, see `TaskResult`.
    prompts: by key of the item.
    settings: see `TaskResult`.
    predictions: the official file or folder of the outputs.
    is_baseline: True takes files made from the baseline's images, whose roles
      begin with "baseline_".
  """
  files, parts, waiting, failed = task.files, task.protocol.parts, [], []
  if task.is_subset and task.protocol.subset is not None:
    with _noted(failed, "not scored, its references cannot be cut"):
      files = task.protocol.subset(files, task.items, folder)
    parts = {} if failed else parts
  outputs_here = {item.key: outputs[item.key] for item in task.items}
  scored = task.own_scores(task.items, outputs_here) if task.own_scores else {}
  for prefix, part in parts.items():
    role = f"{BASELINE}_" * is_baseline + part.predictions
    given = files.get(role) if part.predictions else predictions
    references = [files[r] for r in part.references if r in files]
    lacks = len(references) < BENCHMARKS[part.scorer].required_references
    if given is None or lacks:
      waiting.append(_waiting(task, part, role, folder))
    else:
      path = folder / f"{'_'.join(filter(None, ('score', prefix)))}.json"
      with _noted(failed, f"not scored by {part.scorer}"):
        scored[prefix] = _written_score(
          path, part.scorer, given, references, hashes=task.hashes
        )
  return TaskResult(
    task=task,
    folder=folder,
    outputs=outputs_here,
    prompts=prompts,
    settings=settings,
    scored=scored,
    waiting=tuple(waiting),
    failed=tuple(failed),
  )


@contextlib.contextmanager
def _noted(failed: list[str], what: str) -> Iterator[None]:
  """Adds a sentence for bad files: they must not lose the other figures."""
  try:
    with preparing():
      yield
  except InputError as error:
    failed.append(f"{what}: {error}")


def _written_score(
  path: pathlib.Path,
  scorer: str,
  predictions: pathlib.Path,
  references: Sequence[pathlib.Path],
  *,
  hashes: Mapping[pathlib.Path, str],
) -> Scored:
  scored = score_files(scorer, predictions, references)
  found = report(scorer, scored, predictions, references, hashes=hashes)
  write_json(path, found)
  return scored


def _waiting(
  task: EvaluationTask, part: ScoredPart, role: str, folder: pathlib.Path
) -> str:
  """What a part needs before it can be scored."""
  missing = [r for r in part.references if r not in task.files]
  if not part.predictions:
    return (
      f"not scored by {part.scorer} without {' and '.join(missing)}: give "
      f"--config.benchmarks.files.{task.name}.{missing[0]}=FILE, or the files "
      f"in {folder} to the benchmark's server"
    )
  needed = " and ".join(
    f"--config.benchmarks.files.{task.name}.{one}=FILE"
    for one in (role, *missing)
  )
  return (
    f"not scored by {part.scorer}: give {needed}, made from the images in "
    f"{folder} by {part.tool}, with the same command"
  )
