"""CheckpointStore: save in the background, restore on any mesh, lose nothing.

`<folder>/<step>/` has a sub-folder for each item (written by Orbax), `plain/`
(see `steps`) and `manifest.json`, which is written last. A step without a
manifest is unfinished and is never offered.
"""

import concurrent.futures
import logging
import operator
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from absl import logging as absl_logging
from jax.experimental import multihost_utils

from ddit_jax.checkpoint import steps as step_folders
from ddit_jax.checkpoint import tree_match
from ddit_jax.checkpoint.manifest import (
  CheckpointError,
  raise_on_all,
  raising_on_all,
  write_manifest,
)
from ddit_jax.files import local_path

_log = logging.getLogger(__name__)

# Names that a step or Orbax itself uses.
_RESERVED_ITEMS = (step_folders.PLAIN_FOLDER, "metrics", "default")


class CheckpointStore:
  """A folder of checkpoints, for one writer and any number of readers.

  With several processes all of them must make the same calls in the same
  order, on a folder that all of them see. Use it as a context manager, or call
  `close()`, because a save may still be in progress.
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
    if keep_last < 1:
      raise ValueError(f"keep_last is {keep_last}: the newest step must stay")
    self._folder = local_path(folder)
    self._keep_last = keep_last
    self._best_metric = best_metric
    self._best_is_higher = best_is_higher
    self._read_only = read_only
    self._pending: int | None = None
    self._finisher: concurrent.futures.Future | None = None
    # A step whose files were just compared with its manifest.
    self._verified: int | None = None
    # Orbax saves in this thread, where no signal can interrupt it halfway.
    self._thread = concurrent.futures.ThreadPoolExecutor(max_workers=1)
    self._manager: ocp.CheckpointManager | None = None
    self._prepare_folder()
    self._manager = _manager(self._folder, read_only=read_only)

  def __enter__(self) -> "CheckpointStore":
    return self

  def __exit__(self, kind: type | None, *_: object) -> None:
    try:
      self.close()
    except Exception as error:
      if kind is None:
        raise
      # What went wrong first says more.
      _log.warning("%s, too: %s", self._folder, error)

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
    """Starts saving a step; writing continues in the background.

    Waits for the save before it. The arrays may be donated or replaced as
    soon as this returns.

    Args:
      step: larger than every step in the store.
      state: item name -> tree of arrays, e.g. {"params": ..., "ema": ...}.
      data_position: the position in the training data; JSON-able.
      config: the resolved config with "schema_version"; JSON-able.
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
    args = ocp.args.Composite(**items)
    save = self._manager.save
    self._thread.submit(save, step, args=args, force=True).result()
    self._pending = step
    self._finisher = self._thread.submit(
      _finish, self._manager, step, list(items), contents
    )

  def wait(self) -> None:
    """Waits for the save in progress and deletes the steps it made redundant.

    An interrupt ends the wait but not the save: `close` waits for it again.

    Raises:
      Exception: the failure of that save; its step does not count.
    """
    if self._pending is None:
      return
    error = None
    try:
      self._finisher.result()
    except Exception as caught:
      error = caught
    step, self._pending, self._finisher = self._pending, None, None
    if error is not None:
      # The other processes may still wait for this one's arrays in Orbax.
      raise error
    raise_on_all(None, doing=f"saving step {step}")
    self._delete_redundant()

  def close(self) -> None:
    """Waits for the save in progress and releases all threads."""
    if self._manager is None:
      return
    try:
      self.wait()
    finally:
      manager, self._manager = self._manager, None
      self._thread.submit(manager.close).result()
      self._thread.shutdown()

  @property
  def folder(self) -> pathlib.Path:
    """The folder of all steps."""
    return self._folder

  def steps(self) -> list[int]:
    """All finished steps, ascending; excludes a save in progress."""
    finished = step_folders.finished_steps(self._folder)
    return [step for step in finished if step != self._pending]

  def unfinished_steps(self) -> list[int]:
    """Steps without a manifest, ascending; excludes a save in progress."""
    unfinished = step_folders.unfinished_steps(self._folder)
    return [step for step in unfinished if step != self._pending]

  def latest_step(self) -> int | None:
    """The newest finished step, or None."""
    return max(self.steps(), default=None)

  def newest_whole_step(self) -> int | None:
    """The newest step whose files are those that were written, or None.

    Newer steps that are damaged, or are another step under a wrong name, are
    reported and set aside: the run repeats what led to them. For a writer.

    Raises:
      CheckpointError: no step is whole; nothing is changed.
    """
    damaged = {}
    for step in reversed(self.steps()):
      try:
        self.verify(step)
      except CheckpointError as error:
        damaged[step] = error
        continue
      used = f"step {step} is used instead"
      self._set_aside(
        "damaged", {k: f"{e}; {used}" for k, e in damaged.items()}
      )
      return step
    if damaged:
      raise CheckpointError(f"{next(iter(damaged.values()))}; none is whole")
    return None

  def verify(self, step: int) -> None:
    """Compares every file of a step with its manifest; processes share it.

    Raises:
      CheckpointError: damage, or the folder is another step's.
    """
    with raising_on_all(f"verifying step {step}"):
      share = (jax.process_index(), jax.process_count())
      self._finished_folder(step)
      step_folders.verify_step(self._folder, step, share=share)
    self._verified = step

  def best_step(self) -> int | None:
    """The finished step with the best metric (the earlier one of equals).

    None when no `best_metric` was named or no step has a finite value of it.
    """
    if self._best_metric is None:
      return None
    best, _ = self._best_and_unreadable()
    return best

  def restore(
    self, step: int, abstract_items: dict[str, Any]
  ) -> dict[str, Any]:
    """Restores the requested items of a step onto the given shardings.

    First every file's hash is compared with the manifest (the processes share
    the reading), then all names, shapes and dtypes with the stored ones.

    Args:
      step: a finished step.
      abstract_items: item name -> tree of `jax.ShapeDtypeStruct` with
        shardings; the mesh may differ from the one that saved.

    Returns:
      Item name -> tree of `jax.Array`.

    Raises:
      ValueError: an abstract leaf without a sharding.
      CheckpointError: a missing step or item, damage, or another model's tree.
    """
    for item, tree in abstract_items.items():
      tree_match.check_restorable(item, tree)
    folder = self._finished_folder(step)
    if self._verified != step:
      self.verify(step)
    self._verified = None
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
    """The config saved with a step; its hash is checked."""
    return step_folders.read_facts(self._plain_checked(step), "config")

  def data_position(self, step: int) -> dict[str, Any]:
    """The position in the training data; its hash is checked."""
    return step_folders.read_facts(self._plain_checked(step), "data_position")

  def files(self, step: int) -> dict[str, bytes]:
    """The files saved with a step, by name; their hashes are checked."""
    return step_folders.read_files(self._plain_checked(step))

  def metrics(self, step: int) -> dict[str, float] | None:
    """The metrics saved with a step; None when there were none."""
    return step_folders.read_metrics(self._plain_checked(step))

  def _prepare_folder(self) -> None:
    if self._read_only:
      if not self._folder.is_dir():
        raise CheckpointError(f"{self._folder} does not exist: check the path")
      if unfinished := self.unfinished_steps():
        _log.warning("%s: steps %s are unfinished", self._folder, unfinished)
      return
    self._folder.mkdir(parents=True, exist_ok=True)
    if jax.process_index() == 0:
      step_folders.finish_deleting(self._folder)
    self._set_unfinished_aside()

  def _finished_folder(self, step: int) -> pathlib.Path:
    if self._manager is None:
      raise CheckpointError(f"the store of {self._folder} is closed")
    if step not in self.steps():
      raise CheckpointError(
        f"{self._folder} has no finished step {step}; it has "
        f"{self.steps() or 'none'}"
      )
    return step_folders.step_folder(self._folder, step)

  def _plain_checked(self, step: int) -> pathlib.Path:
    folder = self._finished_folder(step)
    step_folders.verify_step(
      self._folder, step, below=step_folders.PLAIN_FOLDER
    )
    return folder

  def _check_save(
    self, state: dict[str, Any], **plain: Any
  ) -> dict[str, bytes]:
    """Checks that everything can be saved; returns the plain files."""
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
    return step_folders.encode_plain(**plain)

  def _best_and_unreadable(self) -> tuple[int | None, list[int]]:
    if self._best_metric is None:
      return None, []
    return step_folders.best_of(
      self._folder,
      self.steps(),
      metric=self._best_metric,
      is_higher=self._best_is_higher,
    )

  def _delete_redundant(self) -> None:
    steps = self.steps()
    best, unreadable = self._best_and_unreadable()
    kept = {*steps[-self._keep_last :], best, *unreadable}
    redundant = [step for step in steps if step not in kept]
    if jax.process_index() == 0:
      step_folders.delete_steps(self._folder, redundant)
    self._see_the_same_folder()

  def _set_unfinished_aside(self) -> None:
    reasons = {
      step: f"step {step} was never finished (a run was killed?)"
      for step in self.unfinished_steps()
    }
    self._set_aside("unfinished", reasons)

  def _set_aside(self, word: str, reasons: Mapping[int, str]) -> None:
    """Process 0 reports and renames unusable steps; all must call it."""
    if jax.process_index() == 0:
      for step, reason in reasons.items():
        new = step_folders.set_aside(self._folder, step, word)
        _log.warning("%s: it is now %s and can be deleted", reason, new)
    self._see_the_same_folder()

  def _see_the_same_folder(self) -> None:
    """Waits, so no process lists the folder before process 0 changed it."""
    multihost_utils.sync_global_devices("ddit_jax.checkpoint.folder")
    if self._manager is not None:
      self._manager.reload()


def _finish(
  manager: ocp.CheckpointManager,
  step: int,
  items: list[str],
  contents: dict[str, bytes],
) -> None:
  """Waits until Orbax has committed the arrays; process 0 adds the manifest."""
  manager.wait_until_finished()
  if jax.process_index() == 0:
    folder = step_folders.step_folder(pathlib.Path(manager.directory), step)
    step_folders.check_is_committed(folder, items)
    step_folders.write_plain(folder, contents)
    write_manifest(folder, extra={"step": step})


def _manager(folder: pathlib.Path, *, read_only: bool) -> ocp.CheckpointManager:
  # Orbax keeps every step: it deletes before a manifest could be written, and
  # its best-step policy may delete the newest.
  options = ocp.CheckpointManagerOptions(
    read_only=read_only,
    create=not read_only,
    save_interval_steps=0 if read_only else 1,
    # Orbax would do it in a thread that nothing waits for, and that fails
    # noisily when the program ends early.
    cleanup_tmp_directories=False,
  )
  level = absl_logging.get_verbosity()
  try:
    if read_only:
      # Orbax warns that a reader does not write.
      absl_logging.set_verbosity(absl_logging.ERROR)
    return ocp.CheckpointManager(folder, options=options)
  finally:
    absl_logging.set_verbosity(level)


def checkpoints_in(path: str | os.PathLike) -> pathlib.Path:
  """The checkpoint folder of a workdir, or the folder itself if it is one."""
  path = local_path(path)
  return path if path.name == "checkpoints" else path / "checkpoints"
