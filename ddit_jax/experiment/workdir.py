"""The workdir of a run: its lock, resuming, full disks; result folders."""

import contextlib
import dataclasses
import errno
import logging
import os
import pathlib
import re
from collections.abc import Iterable, Iterator
from typing import Any

import jax

from ddit_jax.checkpoint.manifest import raising_on_all
from ddit_jax.checkpoint.store import CheckpointStore, checkpoints_in
from ddit_jax.config.load import from_dict
from ddit_jax.data.bad_records import TooManyBadRecords
from ddit_jax.data.schedule import check_schedule_edit
from ddit_jax.errors import InputError, first_few, suggest
from ddit_jax.experiment.config import Config
from ddit_jax.experiment.source_record import is_named
from ddit_jax.files import folder_if_used, local_path, take_lock
from ddit_jax.json_files import write_json

# A run may be resumed with other values of these sections only.
CHANGEABLE = (
  "name",
  "mesh",
  "train",
  "sample",
  "evaluate",
  "benchmarks",
  "resume_changes",
)
# A resumed run takes these from its checkpoint, whatever its config says.
_KEPT = ("schema_version", "data.tokenizer")
_LOCK, _RESULTS_LOCK = ".lock", ".results.lock"
_log = logging.getLogger(__name__)
_TENSORSTORE_ERROR = re.compile(r"os_error_code='(\d+)'")
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


class RunFolder:
  """The workdir of a run, locked against other processes.

  Attributes:
    path: the folder.
  """

  def __init__(self, path: str | os.PathLike):
    """Creates the folder; the job's first process takes its lock.

    Raises:
      InputError: it cannot be written, or another job trains in it.
      CheckpointError: another process of this job met such an error.
    """
    self.path = local_path(path)
    self._stack = contextlib.ExitStack()
    with raising_on_all(f"opening the workdir {path}"):
      if jax.process_index() == 0:
        self._take_lock()
    self._opened = self._identity()

  def _take_lock(self) -> None:
    path = self.path
    with contextlib.ExitStack() as stack:
      try:
        stack.enter_context(folder_if_used(path))
        stack.enter_context(take_lock(path / _LOCK))
      except BlockingIOError as error:
        raise InputError(
          f"another process is training in {path}: wait for it or choose "
          "another --workdir"
        ) from error
      except OSError as error:
        raise InputError(
          f"the workdir {path} cannot be written ({error.strerror}): choose "
          "another --workdir"
        ) from error
      stack.push(self._remove_unused)
      self._stack = stack.pop_all()

  def _identity(self) -> tuple[int, int] | None:
    try:
      status = self.path.stat()
    except OSError:
      return None
    return status.st_dev, status.st_ino

  def check_is_there(self) -> None:
    """Raises InputError if the folder was removed or renamed by now."""
    if self._identity() != self._opened:
      raise InputError(
        f"the workdir {self.path} was removed or renamed while the run was "
        "going on: put it back and give the same command again"
      )

  def __enter__(self) -> "RunFolder":
    return self

  def __exit__(self, *error: Any) -> None:
    """Releases the lock; after an error an unused folder is removed."""
    self._stack.__exit__(*error)

  def _remove_unused(self, error: type | None, *_: object) -> None:
    if error is None:
      return
    with contextlib.suppress(OSError):
      self.checkpoints.rmdir()
    # The folder itself may be gone.
    with contextlib.suppress(OSError):
      if os.listdir(self.path) == [_LOCK]:
        (self.path / _LOCK).unlink()

  @property
  def checkpoints(self) -> pathlib.Path:
    return checkpoints_in(self.path)

  def open_store(self, keep_last: int) -> CheckpointStore:
    """The run's checkpoints; see `CheckpointStore` for `keep_last`."""
    return CheckpointStore(
      self.checkpoints, keep_last=keep_last, best_metric="validation/total"
    )

  def check_same_run(self, config: Config, saved: Config, step: int) -> None:
    """Raises if resuming would change the run so far.

    Mixtures of `data.sources` may change from `step` on, but not before it.
    Caches may be moved, added or removed. Keys in `config.resume_changes` may
    change, too; each such change is logged.

    Raises:
      InputError: a setting differs that affects training so far.
    """
    old, new = dataclasses.asdict(saved), dataclasses.asdict(config)
    for name in ("num_workers", "num_threads"):
      # The number of readers does not change the data.
      old["data"][name] = new["data"][name]
    if config.lora.rank:
      # Frozen weights may be moved: their hash is compared.
      old["init_from"] = new["init_from"]
    if config.data.sources:
      _check_mixtures(config, saved, step)
      for name in config.data.tasks():
        if not is_named(f"data.{name}.mixture", config.changeable_keys):
          old["data"][name]["mixture"] = new["data"][name]["mixture"]
        # Caches may be moved: opening one compares its contents.
        old["data"][name]["cache"] = new["data"][name]["cache"]
    changeable = config.changeable_keys
    _check_keys(changeable, (old, new))
    changes = {
      key: f"{key} was {before!r} and is {now!r}"
      for key, before, now in _differences(old, new)
      if key.split(".")[0] not in CHANGEABLE
    }
    refused = [key for key in changes if not is_named(key, changeable)]
    if refused:
      first = first_few([changes[key] for key in refused], limit=1)
      raise InputError(
        f"{self.path} holds a run with other settings ({first}): restore them, "
        "accept them with --config.resume_changes="
        f"{','.join([*changeable, *refused])}, or choose another --workdir"
      )
    for change in changes.values():
      _log.warning("from step %d on, %s", step, change)

  def check_resumes(
    self, config: Config, store: CheckpointStore, step: int
  ) -> None:
    """Raises if a checkpoint's run cannot be resumed with this config.

    Raises:
      InputError: see `check_same_run`; or the run is beyond its last step.
    """
    saved = from_dict(Config, store.config(step), f"the run in {self.path}")
    # The first step whose batch is not read yet. After rollbacks more batches
    # were read than steps done.
    tasks = config.data.tasks_on()
    num_read = [
      -(-number // tasks[name].batch_size)
      for name, position in store.data_position(step).items()
      for number in position.values()
      if name in tasks
    ]
    self.check_same_run(config, saved, max([step, *num_read]))
    if step > config.train.num_steps:
      raise InputError(
        f"{self.path} is at step {step}, beyond train.num_steps = "
        f"{config.train.num_steps}: raise it or choose another --workdir"
      )

  def write_config(self, config: Config) -> None:
    """Writes the resolved config, config.json, once a job."""
    if jax.process_index() != 0:
      return
    body = dataclasses.asdict(config)
    write_json(self.path / "config.json", body, indent=2)


@contextlib.contextmanager
def explaining_stops(
  store: CheckpointStore, folder: RunFolder
) -> Iterator[None]:
  """Reports in one line why training stopped and where it can continue."""
  try:
    yield
  except Exception as error:
    if isinstance(error, TooManyBadRecords):
      raise
    folder.check_is_there()
    cause = _disk_error(error)
    if cause is None:
      raise
    if jax.process_count() == 1:
      # The save in progress may be the one that fails.
      with contextlib.suppress(Exception):
        store.wait()
    step = store.latest_step()
    left = (
      "no checkpoint was finished"
      if step is None
      else f"the checkpoint of step {step} is intact"
    )
    raise InputError(
      f"the workdir is no longer writable ({cause.strerror}); {left}: "
      "free some space and give the same command again"
    ) from error


def _disk_error(error: BaseException | None) -> OSError | None:
  """The full or read-only disk among an error's causes, if it is one."""
  while error is not None:
    number = getattr(error, "errno", None)
    # TensorStore sets no errno, but writes it into its message.
    if found := _TENSORSTORE_ERROR.search(str(error)):
      number = int(found[1])
    if number in _DISK_ERRORS:
      return OSError(number, os.strerror(number))
    error = error.__cause__ or error.__context__
  return None


@contextlib.contextmanager
def output_folder(path: str | os.PathLike) -> Iterator[pathlib.Path]:
  """The folder for results, --out, created if it does not exist.

  It has one writer at a time. If the block raises before it wrote anything, the
  folder is removed again.

  Raises:
    InputError: it cannot be written, or another process is writing into it; or
      the block raised an OSError, of a full disk for instance.
  """
  local_path(path)
  with contextlib.ExitStack() as stack:
    try:
      folder = stack.enter_context(
        folder_if_used(pathlib.Path(path).expanduser())
      )
      lock = folder / _RESULTS_LOCK
      stack.enter_context(take_lock(lock))
      stack.callback(lock.unlink, missing_ok=True)
    except BlockingIOError as error:
      raise InputError(
        f"another process is writing into {path}: wait for it, or choose "
        "another --out"
      ) from error
    except OSError as error:
      raise InputError(
        f"--out={path} cannot be written ({error.strerror}): choose another "
        "folder"
      ) from error
    try:
      yield folder
    except BrokenPipeError:
      # Of what is printed.
      raise
    except OSError as error:
      raise InputError(
        f"stopped by {error}: what was finished in {path} is intact; free some "
        "space, or mend what it names, and give the same command again"
      ) from error


def _check_keys(keys: Iterable[str], configs: Iterable[dict]) -> None:
  """Checks the names in `resume_changes`."""
  known = {key for config in configs for key in _sections_and_keys(config)}
  for key in keys:
    if key not in known:
      raise InputError(f"resume_changes names {key!r}: {suggest(key, known)}")
    if key in _KEPT:
      raise InputError(
        f"resume_changes names {key}, which a resumed run takes from its "
        "checkpoint: start another run with init_from"
      )


def _sections_and_keys(config: dict, path: str = "") -> Iterator[str]:
  for key, value in config.items():
    yield f"{path}{key}"
    if isinstance(value, dict):
      yield from _sections_and_keys(value, f"{path}{key}.")


def _check_mixtures(config: Config, saved: Config, step: int) -> None:
  before, now = saved.data.tasks_on(), config.data.tasks_on()
  for name, task in now.items():
    is_free = is_named(f"data.{name}.mixture", config.changeable_keys)
    if name not in before or is_free:
      continue
    try:
      check_schedule_edit(before[name].mixture, task.mixture, step)
    except ValueError as error:
      raise InputError(f"data.{name}.mixture: {error}") from error


def _differences(old, new, path: str = ""):
  if isinstance(old, dict) and isinstance(new, dict):
    for key in sorted(set(old) | set(new)):
      inner = f"{path}.{key}" if path else key
      yield from _differences(old.get(key), new.get(key), inner)
  elif old != new:
    yield path, old, new
