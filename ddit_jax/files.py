"""Atomic writes of files and folders; JSON of limited size."""

import contextlib
import json
import os
import pathlib
import shutil
import tempfile
import time
from collections.abc import Iterator
from typing import Any, BinaryIO

from ddit_jax.errors import InputError


def replace_file(
  path: pathlib.Path, data: bytes, *, survives_power_loss: bool = True
) -> None:
  """Writes a file atomically.

  Args:
    path: an existing file is replaced.
    data: its new contents.
    survives_power_loss: True waits for the disk; False is enough where only
      this process can be killed, or where a damaged file is harmless.
  """
  partial = path.with_name(f"{path.name}.partial")
  try:
    with open(partial, "wb") as file:
      file.write(data)
      if survives_power_loss:
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
  except BaseException:
    partial.unlink(missing_ok=True)
    raise
  if survives_power_loss:
    _sync_folder(path.parent)


def _sync_folder(folder: pathlib.Path) -> None:
  """Syncs a folder's entries, so they survive a power loss."""
  descriptor = os.open(folder, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


def read_json_object(path: pathlib.Path, *, max_bytes: int) -> dict[str, Any]:
  """A JSON object from a file of limited size.

  Raises:
    ValueError: the file is too large, not JSON, or not an object.
  """
  size = path.stat().st_size
  if size > max_bytes:
    raise ValueError(f"{path} has {size} bytes, at most {max_bytes} are read")
  try:
    body = json.loads(path.read_bytes().decode())
  except (ValueError, RecursionError) as error:
    cause = " ".join(str(error).split())
    raise ValueError(f"{path} is not JSON: {cause}") from error
  if not isinstance(body, dict):
    raise ValueError(f"{path} must hold a JSON object {{...}}")
  return body


# An active writer updates its file more often than this.
_SECONDS_UNTIL_ABANDONED = 3600.0


@contextlib.contextmanager
def appearing_file(path: pathlib.Path) -> Iterator[BinaryIO]:
  """A file to write to, renamed to `path` when the block ends.

  If the block raises, nothing is left behind. Several processes may write the
  same file: the last one wins. Files that killed writers left more than an hour
  ago are removed.
  """
  _remove_abandoned(path)
  with tempfile.NamedTemporaryFile(
    dir=path.parent, prefix=f"{path.name}.", suffix=".partial", delete=False
  ) as file:
    try:
      yield file
      file.flush()
      os.fsync(file.fileno())
      # Only the owner can read a temporary file.
      os.chmod(file.name, 0o644)
      os.replace(file.name, path)
    except BaseException:
      os.unlink(file.name)
      raise
  _sync_folder(path.parent)


def _remove_abandoned(path: pathlib.Path) -> None:
  for partial in path.parent.glob(f"{path.name}.*.partial"):
    try:
      if time.time() - partial.stat().st_mtime > _SECONDS_UNTIL_ABANDONED:
        partial.unlink()
    except FileNotFoundError:
      # Another writer finished or removed it.
      continue


@contextlib.contextmanager
def appearing_folder(destination: pathlib.Path) -> Iterator[pathlib.Path]:
  """A folder to write into, renamed when the block ends.

  It is called `destination` + ".partial" until then. An error or an interrupt
  removes it; a killed process leaves it, and the next one starts over.

  Raises:
    InputError: `destination` exists and is not an empty folder.
  """
  check_is_new(destination)
  partial = destination.with_name(f"{destination.name}.partial")
  if partial.exists():
    shutil.rmtree(partial)
  partial.mkdir(parents=True)
  try:
    yield partial
    for path in partial.rglob("*"):
      if path.is_file():
        with open(path, "rb") as file:
          os.fsync(file.fileno())
  except BaseException:
    shutil.rmtree(partial, ignore_errors=True)
    raise
  if destination.is_dir():
    destination.rmdir()
  os.replace(partial, destination)
  _sync_folder(destination.parent)


def check_is_new(folder: pathlib.Path) -> None:
  """Raises InputError unless `folder` is absent or empty."""
  is_empty = folder.is_dir() and not any(folder.iterdir())
  if folder.exists() and not is_empty:
    raise InputError(
      f"{folder} already exists: choose another name or remove it"
    )


def check_free_space(
  path: pathlib.Path, num_bytes: float, *, remedy: str
) -> str:
  """Checks that the disk of a path has enough free space.

  Args:
    path: output path; need not exist yet.
    num_bytes: bytes to write.
    remedy: what the user can do other than free some space, e.g. "choose
      another --workdir".

  Returns:
    "52 GB to write, 800 GB are free".

  Raises:
    InputError: fewer bytes are free.
  """
  there = next(p for p in (path, *path.absolute().parents) if p.exists())
  free = shutil.disk_usage(there).free
  facts = f"{num_bytes / 1e9:.3g} GB to write, {free / 1e9:.3g} GB are free"
  if free < num_bytes:
    raise InputError(f"{path}: {facts}: free some space or {remedy}")
  return facts
