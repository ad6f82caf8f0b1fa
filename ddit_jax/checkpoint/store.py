"""CheckpointStore: save in the background, restore on any mesh, lose nothing.

A step lies in `<folder>/<step>/`: one sub-folder an item (written by Orbax),
`plain/` (JSON and tokenizer files) and `manifest.json`, which is written last.
A step without a manifest is unfinished and is never offered.
"""

import concurrent.futures
import json
import logging
import math
import operator
import os
import pathlib
import shutil
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from ddit_jax.checkpoint import tree_match
from ddit_jax.checkpoint.manifest import (
  MANIFEST_NAME,
  CheckpointError,
  raise_on_all,
  verify_manifest,
  write_manifest,
)

PLAIN_FOLDER = "plain"
_FILES_FOLDER = "files"


def encode_plain(
  *,
  config: dict[str, Any],
  data_position: dict[str, Any],
  metrics: dict[str, float] | None,
  files: dict[str, bytes],
) -> dict[str, bytes]:
  """Turns a step's plain facts into file contents, checking them first.

  Args:
    config: the resolved settings; must contain "schema_version".
    data_position: where the data stream stands.
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
      'config has no "schema_version": without it nobody can tell later how '
      "to read the settings"
    )
  check_json_round_trip("config", config)
  check_json_round_trip("data_position", data_position)
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
  """Writes what `encode_plain` made below `step_folder`."""
  for name, content in contents.items():
    path = step_folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def read_record(step_folder: pathlib.Path, name: str) -> dict[str, Any]:
  """Reads the "config" or "data_position" of a step.

  Raises:
    CheckpointError: the step has no such record.
  """
  path = step_folder / PLAIN_FOLDER / f"{name}.json"
  if not path.is_file():
    raise CheckpointError(f"{path} is missing: not a checkpoint of this store")
  return json.loads(path.read_bytes())


def read_metrics(step_folder: pathlib.Path) -> dict[str, float] | None:
  """Reads a step's metrics (null becomes NaN); None when it has none."""
  path = step_folder / PLAIN_FOLDER / "metrics.json"
  if not path.is_file():
    return None
  stored = json.loads(path.read_bytes())
  return {k: math.nan if v is None else v for k, v in stored.items()}


def read_files(step_folder: pathlib.Path) -> dict[str, bytes]:
  """Reads the files saved with a step, by name; empty when there are none."""
  folder = step_folder / PLAIN_FOLDER / _FILES_FOLDER
  if not folder.is_dir():
    return {}
  return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def check_json_round_trip(name: str, value: Any) -> None:
  """Raises unless `value` comes back from JSON as it went in.

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
      check_json_round_trip(f"{name}.{key}", child)
  elif type(value) is list:
    for index, child in enumerate(value):
      check_json_round_trip(f"{name}[{index}]", child)
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
    found = read_metrics(step_folder(folder, step)) or {}
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


# Folders of a step that are not ours to give away, and Orbax's own items.
_RESERVED_ITEMS = (PLAIN_FOLDER, "metrics", "default")


class CheckpointStore:
  """A folder of checkpoints, for one writer and any number of readers.

  With several processes all of them must make the same calls in the same
  order, on a folder that all of them see. Use it as a context manager, or call
  `close()`: a save may still be under way.
  """

  def __init__(
    self,
    folder: str | os.PathLike,
    *,
    keep_last: int = 2,
    best_metric: str | None = None,
    best_is_higher: bool = False,
    read_only: bool = False,
  ):
    """Opens `folder`; a writer sets unfinished steps of a killed run aside.

    Args:
      folder: a path of the file system (not a bucket address).
      keep_last: how many of the newest steps to keep, at least 1.
      best_metric: also keep the step with the best value of this metric.
      best_is_higher: True when a higher value is better.
      read_only: never write or delete; the folder must exist. Required while
        another program writes there.

    Raises:
      ValueError: `keep_last` below 1, or a bucket address.
      CheckpointError: `read_only` and no such folder.
    """
    _check_settings(str(folder), keep_last)
    self._folder = pathlib.Path(folder).absolute()
    self._keep_last = keep_last
    self._best_metric = best_metric
    self._best_is_higher = best_is_higher
    self._read_only = read_only
    self._pending: int | None = None
    self._finisher: concurrent.futures.Future | None = None
    self._thread = concurrent.futures.ThreadPoolExecutor(max_workers=1)
    self._manager: ocp.CheckpointManager | None = None
    self._prepare_folder()
    self._manager = _manager(self._folder, read_only=read_only)

  def __enter__(self) -> "CheckpointStore":
    return self

  def __exit__(self, *_: object) -> None:
    self.close()

  def save(
    self,
    step: int,
    state: dict[str, Any],
    *,
    data_position: dict[str, Any],
    config: dict[str, Any],
    files: dict[str, bytes],
    metrics: dict[str, float] | None = None,
  ) -> None:
    """Starts to save a step and returns while the writing goes on.

    Waits for the save before it. The arrays may be donated or replaced as
    soon as this returns.

    Args:
      step: larger than every step in the store.
      state: item name -> tree of arrays, e.g. {"params": ..., "ema": ...}.
      data_position: where the data stream stands; JSON-able.
      config: the resolved settings with "schema_version"; JSON-able.
      files: file name -> bytes, e.g. the tokenizer's.
      metrics: results at this step, or None when it was not evaluated.

    Raises:
      ValueError: something that could not be stored or read back unchanged.
      CheckpointError: a read-only store, a step not larger than the latest, or
        the failure of the save before this one.
    """
    step = operator.index(step)
    contents = self._check_save(
      state,
      config=config,
      data_position=data_position,
      metrics=metrics,
      files=files,
    )
    self.wait()
    latest = self.latest_step()
    if step < 0 or (latest is not None and step <= latest):
      raise CheckpointError(
        f"step {step} cannot be saved into {self._folder}, whose latest is "
        f"{latest}: resume from there, or take a new folder"
      )
    self._set_unfinished_aside()  # a failed save of this very step, say
    items = {k: ocp.args.PyTreeSave(tree) for k, tree in state.items()}
    self._manager.save(step, args=ocp.args.Composite(**items), force=True)
    self._pending = step
    if jax.process_index() == 0:
      self._finisher = self._thread.submit(self._finish, step, contents)

  def wait(self) -> None:
    """Waits for the save under way and deletes the steps it made redundant.

    Raises:
      Exception: whatever stopped that save; its step does not count.
    """
    if self._pending is None:
      return
    step, self._pending = self._pending, None
    finisher, self._finisher = self._finisher, None
    error = None
    try:
      self._manager.wait_until_finished()
      if finisher is not None:
        finisher.result()
    except Exception as caught:
      error = caught
    raise_on_all(error, doing=f"saving step {step}")
    self._delete_redundant()

  def close(self) -> None:
    """Waits for the save under way and releases all threads."""
    if self._manager is None:
      return
    try:
      self.wait()
    finally:
      manager, self._manager = self._manager, None
      manager.close()
      self._thread.shutdown()

  def abandon(self) -> None:
    """Forgets the save under way; its step will not count.

    For a process that leaves because of an error while others go on: to wait
    for the save would be to wait for them.
    """
    self._pending = self._finisher = None

  @property
  def folder(self) -> pathlib.Path:
    """Where the steps lie."""
    return self._folder

  def steps(self) -> list[int]:
    """All finished steps, ascending; a save under way is not among them."""
    finished = finished_steps(self._folder)
    return [step for step in finished if step != self._pending]

  def unfinished_steps(self) -> list[int]:
    """Steps without a manifest, ascending; a save under way is not among."""
    unfinished = unfinished_steps(self._folder)
    return [step for step in unfinished if step != self._pending]

  def latest_step(self) -> int | None:
    """The newest finished step, or None."""
    return max(self.steps(), default=None)

  def best_step(self) -> int | None:
    """The finished step with the best metric (the earlier one of equals).

    None when no `best_metric` was named or no step has a finite value of it.
    """
    if self._best_metric is None:
      return None
    return best_of(
      self._folder,
      self.steps(),
      metric=self._best_metric,
      is_higher=self._best_is_higher,
    )

  def restore(
    self, step: int, abstract_items: dict[str, Any]
  ) -> dict[str, Any]:
    """Reads the asked-for items of a step, onto the shardings asked for.

    First every file's hash is compared with the manifest (the processes share
    the reading), then all names, shapes and dtypes with what is stored.

    Args:
      step: a finished step.
      abstract_items: item name -> tree of `jax.ShapeDtypeStruct` with
        shardings; the mesh may differ from the one that saved.

    Returns:
      Item name -> tree of `jax.Array`.

    Raises:
      ValueError: an abstract leaf without a sharding.
      CheckpointError: no such step or item, damage, or another model's tree.
    """
    for item, tree in abstract_items.items():
      tree_match.check_restorable(item, tree)
    folder = self._finished_folder(step)
    error = None
    try:
      share = (jax.process_index(), jax.process_count())
      verify_manifest(folder, share=share)
    except CheckpointError as caught:
      error = caught
    raise_on_all(error, doing=f"verifying step {step}")
    for item, tree in abstract_items.items():
      tree_match.check_fit(folder, item, tree)
    restored = self._manager.restore(
      step,
      args=ocp.args.Composite(
        **{k: tree_match.restore_args(t) for k, t in abstract_items.items()}
      ),
    )
    for item, tree in abstract_items.items():
      tree_match.check_restored(item, restored[item], tree)
    return dict(restored.items())

  def config(self, step: int) -> dict[str, Any]:
    """The resolved settings saved with a step; their hash is checked."""
    return read_record(self._plain_checked(step), "config")

  def data_position(self, step: int) -> dict[str, Any]:
    """The data stream's position saved with a step; its hash is checked."""
    return read_record(self._plain_checked(step), "data_position")

  def files(self, step: int) -> dict[str, bytes]:
    """The files saved with a step, by name; their hashes are checked."""
    return read_files(self._plain_checked(step))

  def metrics(self, step: int) -> dict[str, float] | None:
    """The metrics saved with a step; None when there were none."""
    return read_metrics(self._plain_checked(step))

  def _prepare_folder(self) -> None:
    if self._read_only:
      if not self._folder.is_dir():
        raise CheckpointError(f"{self._folder} does not exist: check the path")
      if unfinished := self.unfinished_steps():
        _log.warning("%s: steps %s are unfinished", self._folder, unfinished)
      return
    self._folder.mkdir(parents=True, exist_ok=True)
    if jax.process_index() == 0:
      finish_deleting(self._folder)
    self._set_unfinished_aside()

  def _finished_folder(self, step: int) -> pathlib.Path:
    if self._manager is None:
      raise CheckpointError(f"the store of {self._folder} is closed")
    if step not in self.steps():
      raise CheckpointError(
        f"{self._folder} has no finished step {step}; it has "
        f"{self.steps() or 'none'}"
      )
    return step_folder(self._folder, step)

  def _plain_checked(self, step: int) -> pathlib.Path:
    folder = self._finished_folder(step)
    verify_manifest(folder, below=PLAIN_FOLDER)
    return folder

  def _check_save(
    self, state: dict[str, Any], **plain: Any
  ) -> dict[str, bytes]:
    """Refuses what cannot be saved; returns the plain files' contents."""
    if self._manager is None or self._read_only:
      word = "read-only" if self._read_only else "closed"
      raise CheckpointError(f"the store of {self._folder} is {word}")
    for item, tree in state.items():
      if not item.isidentifier() or item in _RESERVED_ITEMS:
        raise ValueError(
          f"item name {item!r} is reserved or not a plain word: rename it"
        )
      tree_match.check_savable(item, tree)
    metrics = plain["metrics"]
    if metrics is not None and self._best_metric not in (None, *metrics):
      raise ValueError(
        f"metrics lack {self._best_metric!r}, by which the best step is "
        f"chosen; they have {sorted(metrics)}"
      )
    return encode_plain(**plain)

  def _finish(self, step: int, contents: dict[str, bytes]) -> None:
    """Runs in a thread of process 0, after Orbax has committed the arrays."""
    self._manager.wait_until_finished()
    folder = step_folder(self._folder, step)
    write_plain(folder, contents)
    write_manifest(folder, extra={"step": step})

  def _delete_redundant(self) -> None:
    steps = self.steps()
    kept = {*steps[-self._keep_last :], self.best_step()}
    redundant = [step for step in steps if step not in kept]
    if jax.process_index() == 0:
      delete_steps(self._folder, redundant)
    self._see_the_same_folder()

  def _set_unfinished_aside(self) -> None:
    if jax.process_index() == 0:
      for step in self.unfinished_steps():
        new = set_aside(self._folder, step)
        _log.warning(
          "step %d was never finished (a run was killed?): it is now %s and "
          "can be deleted",
          step,
          new,
        )
    self._see_the_same_folder()

  def _see_the_same_folder(self) -> None:
    """No process lists the folder before process 0 has changed it."""
    multihost_utils.sync_global_devices("ddit_jax.checkpoint.folder")
    if self._manager is not None:
      self._manager.reload()


def _manager(folder: pathlib.Path, *, read_only: bool) -> ocp.CheckpointManager:
  # Orbax keeps every step: it deletes before a manifest could be written, and
  # its best-step policy may delete the newest.
  return ocp.CheckpointManager(
    folder,
    options=ocp.CheckpointManagerOptions(
      read_only=read_only,
      create=not read_only,
      save_interval_steps=0 if read_only else 1,
      cleanup_tmp_directories=not read_only,
    ),
  )


def _check_settings(folder: str, keep_last: int) -> None:
  if keep_last < 1:
    raise ValueError(f"keep_last is {keep_last}: the newest step must stay")
  if "://" in folder:
    raise ValueError(
      f"{folder} is a bucket address: mount the bucket (gcsfuse, for "
      "instance) and give the path, because files are hashed and renamed"
    )


def checkpoints_in(path: str | os.PathLike) -> pathlib.Path:
  """The checkpoint folder of a workdir, or the folder itself if it is one."""
  path = pathlib.Path(path)
  return path if path.name == "checkpoints" else path / "checkpoints"
