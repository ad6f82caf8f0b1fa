"""One benchmark to be run, and its result on one model."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from ddit_jax.errors import InputError, preparing
from ddit_jax.json_files import json_hash
from ddit_jax.protocols.item import Item
from ddit_jax.protocols.layouts import write_json
from ddit_jax.protocols.protocol import Part, Protocol
from ddit_jax.scoring.benchmarks import BENCHMARKS, report, score_files
from ddit_jax.scoring.scored import Scored

BASELINE = "baseline"
# What tells records of one's own apart: their number and prompt may not.
_RECORD_FACTS = ("record", "texts")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
  """A benchmark with its items, read before any weights.

  Attributes:
    name: of the task.
    protocol: how it is run.
    files: by role.
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
class Result:
  """A benchmark on one model.

  Attributes:
    job: what was run.
    folder: of its files.
    outputs: by key of the item.
    prompts: what the model was given, by key of the item.
    settings: how it was sampled.
    scored: figures by prefix of the part.
    waiting: a sentence for each part that lacks files.
    failed: a sentence for each part whose files could not be scored.
  """

  job: Job
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
    found = [*self.job.notes, *self.waiting, *self.failed]
    return found + [note for one in self.scored.values() for note in one.notes]

  def figures(self) -> dict[str, float]:
    """ "vqav2/accuracy", "vqav2/release/accuracy_by_answer_type/other", ..."""
    flat: dict[str, float] = {}
    for prefix, scored in self.scored.items():
      start = "/".join(filter(None, (self.job.name, prefix)))
      for name, value in scored.figures.items():
        if isinstance(value, Mapping):
          flat |= {f"{start}/{name}/{key}": x for key, x in value.items()}
        else:
          flat[f"{start}/{name}"] = value
    return flat


def scored_result(
  job: Job,
  *,
  folder: pathlib.Path,
  outputs: Mapping[str, Any],
  prompts: Mapping[str, str],
  settings: Mapping[str, Any],
  predictions: pathlib.Path,
  is_baseline: bool,
) -> Result:
  """Scores what can be scored, and writes it to score.json as `ddit score`.

  Args:
    job: the benchmark.
    folder: of its results.
    outputs: by key of the item, see `Result`.
    prompts: by key of the item.
    settings: see `Result`.
    predictions: the official file or folder of the outputs.
    is_baseline: True takes files made from the baseline's images, whose roles
      begin with "baseline_".
  """
  files, parts, waiting, failed = job.files, job.protocol.parts, [], []
  if job.is_subset and job.protocol.subset is not None:
    with _noted(failed, "not scored, its references cannot be cut"):
      files = job.protocol.subset(files, job.items, folder)
    parts = {} if failed else parts
  outputs_here = {item.key: outputs[item.key] for item in job.items}
  scored = job.own_scores(job.items, outputs_here) if job.own_scores else {}
  for prefix, part in parts.items():
    role = f"{BASELINE}_" * is_baseline + part.predictions
    given = files.get(role) if part.predictions else predictions
    references = [files[r] for r in part.references if r in files]
    lacks = len(references) < BENCHMARKS[part.scorer].required_references
    if given is None or lacks:
      waiting.append(_waiting(job, part, role, folder))
    else:
      path = folder / f"{'_'.join(filter(None, ('score', prefix)))}.json"
      with _noted(failed, f"not scored by {part.scorer}"):
        scored[prefix] = _written_score(path, part.scorer, given, references)
  return Result(
    job=job,
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
) -> Scored:
  scored = score_files(scorer, predictions, references)
  write_json(path, report(scorer, scored, predictions, references))
  return scored


def _waiting(job: Job, part: Part, role: str, folder: pathlib.Path) -> str:
  """What a part needs before it can be scored."""
  missing = [r for r in part.references if r not in job.files]
  if not part.predictions:
    return (
      f"not scored by {part.scorer} without {' and '.join(missing)}: the files "
      f"in {folder} are for the benchmark's server"
    )
  needed = " and ".join(
    f"--config.benchmarks.files.{job.name}.{one}=FILE"
    for one in (role, *missing)
  )
  return (
    f"not scored by {part.scorer}: give {needed}, made from the images in "
    f"{folder} by {part.tool}, with the same command"
  )
