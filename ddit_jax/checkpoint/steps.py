"""The folder of one step: its JSON metadata, completeness, and deletion.

A step is finished when it has a manifest. `plain/` holds the config, the data
position and metrics as JSON, and files such as the tokenizer's.
"""

import json
import logging
import math
import os
import pathlib
import shutil
from typing import Any

from ddit_jax.checkpoint.manifest import (
  MANIFEST_NAME,
  CheckpointError,
  listed_files,
  verify_manifest,
)
from ddit_jax.files import read_regular

PLAIN_FOLDER = "plain"
_FILES_FOLDER = "files"
_DELETING = ".deleting"
# What Orbax calls a step while it writes the arrays.
_SAVING = ".orbax-checkpoint-tmp"

_log = logging.getLogger(__name__)


def encode_plain(
  *,
  config: dict[str, Any],
  data_position: dict[str, Any],
  metrics: dict[str, float] | None,
  files: dict[str, bytes],
) -> dict[str, bytes]:
  """Turns a step's JSON metadata into file contents, checked first.

  Args:
    config: the resolved config; must contain "schema_version".
    data_position: the position in the training data.
    metrics: evaluation results of this step, or None. A number that is not
      finite is stored as null and comes back as NaN.
    files: file name -> bytes, e.g. {"tokenizer.json": ...}.

  Returns:
    Path relative to the step's folder -> bytes.

  Raises:
    ValueError: something that JSON would not give back unchanged, no
      "schema_version", or a file name that is a path.
  """
  if "schema_version" not in config:
    raise ValueError(
      'config has no "schema_version", by which later versions read it'
    )
  _check_json_round_trip("config", config)
  _check_json_round_trip("data_position", data_position)
  encoded = {"config": config, "data_position": data_position}
  if metrics is not None:
    encoded["metrics"] = {k: _finite_or_none(v) for k, v in metrics.items()}
  contents = {
    f"{PLAIN_FOLDER}/{name}.json": json.dumps(
      value, indent=1, allow_nan=False
    ).encode()
    for name, value in encoded.items()
  }
  for name, content in files.items():
    _check_file_name(name)
    contents[f"{PLAIN_FOLDER}/{_FILES_FOLDER}/{name}"] = bytes(content)
  return contents


def write_plain(step_folder: pathlib.Path, contents: dict[str, bytes]) -> None:
  """Writes the output of `encode_plain` below `step_folder`."""
  for name, content in contents.items():
    path = step_folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def read_facts(step_folder: pathlib.Path, name: str) -> dict[str, Any]:
  """Reads the "config" or "data_position" of a step.

  Raises:
    CheckpointError: the step has no such file.
  """
  path = step_folder / PLAIN_FOLDER / f"{name}.json"
  if not path.is_file():
    raise CheckpointError(f"{path} is missing: not a checkpoint of this store")
  return json.loads(read_regular(path))


def read_metrics(step_folder: pathlib.Path) -> dict[str, float] | None:
  """Reads a step's metrics (null becomes NaN); None when it has none."""
  path = step_folder / PLAIN_FOLDER / "metrics.json"
  if not path.is_file():
    return None
  stored = json.loads(read_regular(path))
  return {k: math.nan if v is None else v for k, v in stored.items()}


def read_files(step_folder: pathlib.Path) -> dict[str, bytes]:
  """Reads the files saved with a step, by name; empty when there are none."""
  folder = step_folder / PLAIN_FOLDER / _FILES_FOLDER
  if not folder.is_dir():
    return {}
  return {path.name: read_regular(path) for path in sorted(folder.iterdir())}


def _check_json_round_trip(name: str, value: Any) -> None:
  """Raises unless `value` survives a round trip through JSON.

  Args:
    name: the path of the value, for the message, e.g. "config.optimizer".
    value: dicts with str keys, lists, str, bool, int, finite float and None
      are allowed; a tuple, for instance, would come back as a list.

  Raises:
    ValueError: names the first value that would change or get lost.
  """
  if type(value) is dict:
    for key, child in value.items():
      if type(key) is not str:
        raise ValueError(
          f"{name} has the key {key!r}: JSON keeps only str keys"
        )
      _check_json_round_trip(f"{name}.{key}", child)
  elif type(value) is list:
    for index, child in enumerate(value):
      _check_json_round_trip(f"{name}[{index}]", child)
  elif type(value) is float and not math.isfinite(value):
    raise ValueError(f"{name} is {value}: JSON has no such number, use null")
  elif value is not None and type(value) not in (str, bool, int, float):
    raise ValueError(
      f"{name} is a {type(value).__name__}, which JSON would not give back "
      "unchanged: use dict, list, str, bool, int, float or None"
    )


def _finite_or_none(value: float) -> float | None:
  return float(value) if math.isfinite(value) else None


def _check_file_name(name: str) -> None:
  is_plain = name == pathlib.PurePosixPath(name).name and name not in ("", "..")
  if not is_plain or "\\" in name:
    raise ValueError(
      f"file name {name!r} is not a plain name such as tokenizer.json"
    )


def step_folder(folder: pathlib.Path, step: int) -> pathlib.Path:
  """The folder of a step."""
  return folder / str(step)


def finished_steps(folder: pathlib.Path) -> list[int]:
  """Steps with a manifest of arrays, ascending."""
  return [step for step in _steps(folder) if _is_finished(folder, step)]


def unfinished_steps(folder: pathlib.Path) -> list[int]:
  """The other steps, ascending."""
  return [step for step in _steps(folder) if not _is_finished(folder, step)]


def check_is_committed(step_folder: pathlib.Path, items: list[str]) -> None:
  """Raises unless Orbax has written all items of a step.

  Raises:
    CheckpointError: a failed or interrupted save left some out.
  """
  missing = [item for item in items if not (step_folder / item).is_dir()]
  if missing:
    raise CheckpointError(
      f"{step_folder} lacks {', '.join(missing)}: saving it was interrupted"
    )


def verify_step(
  folder: pathlib.Path,
  step: int,
  *,
  below: str = "",
  share: tuple[int, int] = (0, 1),
) -> None:
  """Compares a step's files with its manifest, see `verify_manifest`.

  Raises:
    CheckpointError: damage; or the folder holds another step, because it was
      renamed, swapped or linked.
  """
  path = step_folder(folder, step)
  saved = verify_manifest(path, below=below, share=share).get("step")
  if saved != step:
    raise CheckpointError(
      f"{path} holds step {saved}, by its manifest: give it its own name again "
      "or use another checkpoint"
    )


def best_of(
  folder: pathlib.Path, steps: list[int], *, metric: str, is_higher: bool
) -> tuple[int | None, list[int]]:
  """The step with the best finite value of a metric; the earlier of equals.

  Metrics are read only from steps where they are as written.

  Args:
    folder: the store's folder.
    steps: finished steps to choose from.
    metric: name of the metric.
    is_higher: True when a higher value is better.

  Returns:
    The step, or None when no step has a finite value; and the steps whose
    metrics are damaged.
  """
  sign = -1.0 if is_higher else 1.0
  scored, damaged = [], []
  for step in steps:
    try:
      verify_step(folder, step, below=PLAIN_FOLDER)
    except CheckpointError as error:
      _log.warning("step %d cannot be the best: %s", step, error)
      damaged.append(step)
      continue
    found = read_metrics(step_folder(folder, step)) or {}
    value = found.get(metric, math.nan)
    if math.isfinite(value):
      scored.append((sign * value, step))
  return (min(scored)[1] if scored else None), damaged


def delete_steps(folder: pathlib.Path, steps: list[int]) -> None:
  """Deletes steps; a killed process leaves no partial step behind."""
  for step in steps:
    doomed = folder / f"{step}{_DELETING}"
    os.replace(step_folder(folder, step), doomed)
    _remove(doomed)


def finish_deleting(folder: pathlib.Path) -> None:
  """Removes what a killed `delete_steps` or a killed save left behind."""
  for doomed in folder.glob(f"*{_SAVING}*"):
    _remove(doomed)
  for doomed in folder.glob(f"*{_DELETING}"):
    if doomed.stem.isdecimal():
      _remove(doomed)


def set_aside(folder: pathlib.Path, step: int, word: str) -> pathlib.Path:
  """Renames a step that cannot be used, to free its number and lose nothing.

  Args:
    folder: the store's folder.
    step: the step.
    word: why, e.g. "unfinished".

  Returns:
    The new path, e.g. 100.unfinished-0.
  """
  number = 0
  while (new := folder / f"{step}.{word}-{number}").exists():
    number += 1
  os.replace(step_folder(folder, step), new)
  return new


def _remove(doomed: pathlib.Path) -> None:
  if doomed.is_symlink():
    doomed.unlink()
  shutil.rmtree(doomed, ignore_errors=True)
  if doomed.exists():  # a reader may hold its files open on a network disk
    _log.warning(
      "%s could not be deleted yet; trying at the next start", doomed
    )


def _steps(folder: pathlib.Path) -> list[int]:
  return sorted(
    int(path.name)
    for path in folder.iterdir()
    # "007" is not a name of ours.
    if path.name.isdecimal() and path.name == str(int(path.name))
  )


def _is_finished(folder: pathlib.Path, step: int) -> bool:
  path = step_folder(folder, step)
  if not (path / MANIFEST_NAME).is_file():
    return False
  try:
    names = listed_files(path)
  except CheckpointError:
    return True  # A damaged manifest is reported by who wants to use the step.
  return any(not name.startswith(f"{PLAIN_FOLDER}/") for name in names)
