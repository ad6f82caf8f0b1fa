"""A folder that is being prepared: its plan, its finished shards, its lock.

Below the folder of shards lies `in_progress/` until all is done:

  plan.json     which source and options; another run must have the same
  NAME          the shard that is being written
  NAME.json     what a shard holds; written before the shard gets its place
  lock          held by the process that writes

A shard counts as finished when it lies in its place with the size that
NAME.json says. A process can be killed at any moment: the next one writes the
shards that are not finished.
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import pathlib
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

from ddit_jax.data import prepared_folder
from ddit_jax.data.durable_files import read_json_object, replace_file
from ddit_jax.data.prepared_folder import Shard

IN_PROGRESS = "in_progress"

_MAX_FILE_BYTES = 2**28


class PrepareError(ValueError):
  """Preparing cannot start or go on; one line with the way out."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinishedShard:
  """One shard and what became of its share of the source.

  Attributes:
    shard: as dataset.json will list it.
    removed: filter's name to the number of records it left out.
    bad_records: {"index", "record_id", "reason", "detail"} of every record
      that could not be used.
  """

  shard: Shard
  removed: Mapping[str, int]
  bad_records: tuple[Mapping[str, Any], ...]


class UnfinishedFolder:
  """Where shards are written, one by one, each at once or not at all."""

  def __init__(self, folder: pathlib.Path):
    """Touches nothing."""
    self.folder = folder
    self._progress = folder / IN_PROGRESS

  @contextlib.contextmanager
  def locked(self, plan: Mapping[str, Any]) -> Iterator[None]:
    """Makes the folder this process's own, for this plan.

    Args:
      plan: JSON-able; equal plans write equal bytes.

    Raises:
      PrepareError: another process writes here, the folder holds something
        else, or it was begun with another plan.
    """
    self._refuse_other_contents()
    self._progress.mkdir(parents=True, exist_ok=True)
    with open(self._progress / "lock", "w") as lock:
      try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError as error:
        raise PrepareError(
          f"another process is writing to {self.folder}: wait for it, or "
          "choose another folder"
        ) from error
      path = self._progress / "plan.json"
      if path.exists():
        begun = read_json_object(path, max_bytes=_MAX_FILE_BYTES)
        require_equal_plans(self.folder, begun, plan)
      else:
        replace_file(path, json.dumps(plan, sort_keys=True).encode())
      yield

  def partial_path(self, name: str) -> pathlib.Path:
    """Where a shard lies while it is written."""
    return self._progress / name

  def finish(self, finished: FinishedShard) -> None:
    """Moves a shard that was written to `partial_path` to its place."""
    name = finished.shard.name
    with open(self.partial_path(name), "rb") as file:
      os.fsync(file.fileno())
    report = json.dumps(dataclasses.asdict(finished), sort_keys=True)
    # A report that is lost or damaged only costs writing the shard again.
    replace_file(
      self._progress / f"{name}.json",
      report.encode(),
      survives_power_loss=False,
    )
    os.replace(self.partial_path(name), self.folder / name)

  def finished(self, name: str) -> FinishedShard | None:
    """What `finish` was told about a shard, or None if it must be written."""
    report, path = self._progress / f"{name}.json", self.folder / name
    if not (report.is_file() and path.is_file()):
      return None
    try:
      body = read_json_object(report, max_bytes=_MAX_FILE_BYTES)
      shard = Shard(**body["shard"])
      removed, bad = body["removed"], tuple(body["bad_records"])
    except (KeyError, TypeError, ValueError):
      return None
    if path.stat().st_size != shard.num_bytes:
      return None
    return FinishedShard(shard=shard, removed=removed, bad_records=bad)

  def clear(self) -> None:
    """Deletes what only unfinished folders have."""
    shutil.rmtree(self._progress, ignore_errors=True)

  def _refuse_other_contents(self) -> None:
    if self.folder.exists() and not self.folder.is_dir():
      raise PrepareError(f"{self.folder} is a file: choose a new folder")
    if not self.folder.exists() or (self._progress / "plan.json").exists():
      return
    others = sorted(set(os.listdir(self.folder)) - {IN_PROGRESS})
    if others:
      raise PrepareError(
        f"{self.folder} holds {others[0]} and more that ddit prepare did not "
        "write: choose a new or empty folder"
      )


def require_equal_plans(
  folder: pathlib.Path, begun: Mapping[str, Any], plan: Mapping[str, Any]
) -> None:
  """Raises PrepareError, naming the differences, unless plans are equal."""
  changed = [
    f"{key} {begun.get(key)!r} instead of {plan.get(key)!r}"
    for key in sorted({*begun, *plan})
    if begun.get(key) != plan.get(key)
  ]
  if changed:
    raise PrepareError(
      f"{folder} was prepared from another source or with other options "
      f"({', '.join(changed)}): choose another folder, or delete this one"
    )


def is_finished(folder: pathlib.Path) -> bool:
  """True if dataset.json is there, which is written last."""
  return (folder / prepared_folder.FILE_NAME).is_file()
