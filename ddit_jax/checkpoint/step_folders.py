"""The step folders of a store: which are finished, which may go.

`<step>/` with a manifest is finished, without one unfinished. Two other names
can lie beside them: `<step>.deleting` (removed when a writer opens the store)
and `<step>.unfinished-<n>` (set aside, never touched again).
"""

import logging
import math
import os
import pathlib
import shutil

from ddit_jax.checkpoint import plain_files
from ddit_jax.checkpoint.manifest import MANIFEST_NAME

_log = logging.getLogger(__name__)

_DELETING = ".deleting"


def step_folder(folder: pathlib.Path, step: int) -> pathlib.Path:
  """Where a step lies."""
  return folder / str(step)


def finished_steps(folder: pathlib.Path) -> list[int]:
  """Steps with a manifest, ascending."""
  return [step for step in _steps(folder) if _has_manifest(folder, step)]


def unfinished_steps(folder: pathlib.Path) -> list[int]:
  """Steps without a manifest, ascending."""
  return [step for step in _steps(folder) if not _has_manifest(folder, step)]


def best_of(
  folder: pathlib.Path, steps: list[int], *, metric: str, is_higher: bool
) -> int | None:
  """The step with the best finite value of a metric; the earlier of equals.

  Args:
    folder: the store's folder.
    steps: finished steps to choose from.
    metric: name of the metric.
    is_higher: True when a higher value is better.

  Returns:
    The step, or None when no step has a finite value.
  """
  sign = -1.0 if is_higher else 1.0
  scored = []
  for step in steps:
    found = plain_files.read_metrics(step_folder(folder, step)) or {}
    value = found.get(metric, math.nan)
    if math.isfinite(value):
      scored.append((sign * value, step))
  return min(scored)[1] if scored else None


def delete_steps(folder: pathlib.Path, steps: list[int]) -> None:
  """Deletes steps; a process killed meanwhile leaves no half step behind."""
  for step in steps:
    doomed = folder / f"{step}{_DELETING}"
    os.replace(step_folder(folder, step), doomed)
    _remove(doomed)


def finish_deleting(folder: pathlib.Path) -> None:
  """Removes what a killed `delete_steps` left behind."""
  for doomed in folder.glob(f"*{_DELETING}"):
    if doomed.stem.isdecimal():
      _remove(doomed)


def set_aside(folder: pathlib.Path, step: int) -> pathlib.Path:
  """Renames an unfinished step, so that its number is free; nothing is lost.

  Returns:
    The new path.
  """
  number = 0
  while (new := folder / f"{step}.unfinished-{number}").exists():
    number += 1
  os.replace(step_folder(folder, step), new)
  return new


def _remove(doomed: pathlib.Path) -> None:
  shutil.rmtree(doomed, ignore_errors=True)
  if doomed.exists():  # a reader may hold its files open on a network disk
    _log.warning(
      "%s could not be deleted yet; trying at the next start", doomed
    )


def _steps(folder: pathlib.Path) -> list[int]:
  return sorted(
    int(path.name)
    for path in folder.iterdir()
    # "007" is not a name that we give.
    if path.name.isdecimal() and path.name == str(int(path.name))
  )


def _has_manifest(folder: pathlib.Path, step: int) -> bool:
  return (step_folder(folder, step) / MANIFEST_NAME).is_file()
