"""Folders that appear whole, under their name, or not at all."""

import contextlib
import hashlib
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError

from ddit_jax.conversion.errors import ConversionError

SUFFIX = ".partial"
_HASHED_AT_ONCE = 2**22


@contextlib.contextmanager
def partial_folder(destination: pathlib.Path) -> Iterator[pathlib.Path]:
  """A folder to write into, renamed to `destination` at the end.

  An error or an interrupt removes it; after a kill it stays behind as
  `destination` + ".partial", and the next conversion starts it anew.

  Raises:
    ConversionError: `destination` exists and is not an empty folder.
  """
  check_free(destination)
  partial = destination.with_name(destination.name + SUFFIX)
  if partial.exists():
    shutil.rmtree(partial)
  partial.mkdir(parents=True)
  try:
    yield partial
    sync_files(partial)
  except BaseException:
    shutil.rmtree(partial, ignore_errors=True)
    raise
  if destination.is_dir():
    destination.rmdir()
  os.replace(partial, destination)


def check_free(destination: pathlib.Path) -> None:
  """Raises unless `destination` can be made.

  Raises:
    ConversionError: something is there.
  """
  is_empty = destination.is_dir() and not any(destination.iterdir())
  if destination.exists() and not is_empty:
    raise ConversionError(
      f"{destination} already exists: name another DST or remove it"
    )


def check_space(destination: pathlib.Path, nbytes: int) -> None:
  """Raises unless the disk of `destination` has room.

  Raises:
    ConversionError: fewer than `nbytes` bytes are free.
  """
  place = next(p for p in destination.absolute().parents if p.is_dir())
  free = shutil.disk_usage(place).free
  if free < nbytes:
    raise ConversionError(
      f"{destination} needs {nbytes:,} bytes but its disk has {free:,} free: "
      "make room, or take a smaller --dtype"
    )


def sync_files(folder: pathlib.Path) -> None:
  """Waits until every file below `folder` is on the disk."""
  for path in folder.rglob("*"):
    if path.is_file():
      with open(path, "rb") as file:
        os.fsync(file.fileno())


def hash_file(
  path: pathlib.Path, is_given_up: Callable[[], bool] = lambda: False
) -> dict[str, object]:
  """Size and BLAKE2b hash of a file, as manifests list them.

  Args:
    path: the file.
    is_given_up: asked now and then; True ends the hashing.

  Raises:
    CancelledError: it was given up.
  """
  digest = hashlib.blake2b(digest_size=32)
  with open(path, "rb") as file:
    while chunk := file.read(_HASHED_AT_ONCE):
      if is_given_up():
        raise CancelledError
      digest.update(chunk)
  return {"bytes": path.stat().st_size, "blake2b": digest.hexdigest()}
