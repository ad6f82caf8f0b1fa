"""Paths, regular files, locks, atomic writes, free space."""

import contextlib
import errno
import fcntl
import os
import pathlib
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from typing import IO, Any, BinaryIO

from ddit_jax.errors import InputError

# "gs://bucket/run", also after `pathlib` made one slash of two.
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*:/", re.IGNORECASE)


def local_path(path: str | os.PathLike, *, what: str = "") -> pathlib.Path:
  """The absolute path that a user means, without ".." and "~".

  Every path that a user gives passes through here before it is used.

  Args:
    path: relative to the current folder, or absolute; need not exist. Its last
      links are kept, so that its parent is the folder that the user sees.
    what: the flag or config key that gives it, for the message.

  Raises:
    InputError: an empty text, as of an unset shell variable, which would be
      the current folder; a bucket address such as gs://bucket/run; or a name
      that the file system does not take.
  """
  if not os.fspath(path):
    raise InputError(f"{what or 'a path'} is empty: give a file or folder")
  named = f"{what}={path}" if what else path
  if _ADDRESS.match(os.fspath(path)):
    raise InputError(
      f"{named} is a bucket address: mount the bucket (gcsfuse, for instance) "
      "and give the path, because files are hashed and renamed"
    )
  found = pathlib.Path(os.path.expanduser(path)).absolute()
  try:
    found.stat()
  except (FileNotFoundError, NotADirectoryError):
    pass
  except (OSError, ValueError) as error:
    cause = getattr(error, "strerror", None) or error
    raise InputError(f"{named} cannot be used: {cause}") from error
  parts = found.parts
  if ".." not in parts:
    return found
  # The system follows a link before it goes up.
  num_resolved = len(parts) - parts[::-1].index("..")
  resolved = pathlib.Path(*parts[:num_resolved]).resolve()
  return resolved.joinpath(*parts[num_resolved:])


def is_unsafe(path: str) -> bool:
  """Whether a relative path leads out of its folder, before resolving links."""
  return (
    not path
    or "\0" in path
    or os.path.isabs(path)
    or ".." in path.split("/")
    or path.endswith("/")
  )


def _open_regular(name: str | os.PathLike, flags: int) -> int:
  """A descriptor of a regular file; never waits."""
  try:
    # Opening a pipe would wait for its other end.
    descriptor = os.open(name, flags | os.O_NONBLOCK, 0o644)
  except OSError as error:
    # A link under O_NOFOLLOW, or a pipe without a reader or a socket.
    if error.errno not in (errno.ELOOP, errno.ENXIO):
      raise
    raise InputError(f"{name} is not a regular file") from error
  if not stat.S_ISREG(os.fstat(descriptor).st_mode):
    os.close(descriptor)
    raise InputError(f"{name} is not a regular file")
  return descriptor


def open_regular(path: str | os.PathLike, mode: str = "rb") -> IO[Any]:
  """`open`, but never of a pipe, a device, a socket or a folder.

  Raises:
    InputError: `path` is not a regular file.
    OSError: as `open`.
  """
  encoding = None if "b" in mode else "utf-8"
  return open(path, mode, encoding=encoding, opener=_open_regular)


def read_regular(path: str | os.PathLike) -> bytes:
  """All bytes of a file; see `open_regular` for the errors."""
  with open_regular(path) as file:
    return file.read()


def take_lock(path: pathlib.Path) -> BinaryIO:
  """Locks a file until it is closed; its contents are left as they are.

  Args:
    path: created if it does not exist; its folder must exist.

  Raises:
    BlockingIOError: another process holds the lock.
    InputError: a link, which could lead anywhere, or not a regular file.
    OSError: it cannot be opened.
  """
  flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
  while True:
    file = os.fdopen(_open_regular(path, flags), "r+b")
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
      file.close()
      raise
    # A file that was removed in between locks nobody out.
    if os.fstat(file.fileno()).st_nlink:
      return file
    file.close()


@contextlib.contextmanager
def folder_if_used(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """Creates a folder and its parents.

  If the block raises, those that this made and that are still empty are
  removed, so that a refused call leaves nothing behind.
  """
  made = [one for one in (path, *path.parents) if not one.exists()]
  try:
    path.mkdir(parents=True, exist_ok=True)
    yield path
  except BaseException:
    for one in made:
      with contextlib.suppress(OSError):
        one.rmdir()
    raise


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
    # A killed process may have left it; a link in its place would be followed.
    partial.unlink(missing_ok=True)
    with open_regular(partial, "wb") as file:
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
def new_file(path: pathlib.Path) -> Iterator[BinaryIO]:
  """A file to write to, called `path` when the block ends.

  It is called `path` + ".partial" until then, and has one writer at a time. If
  the block raises, nothing is left behind.

  Raises:
    InputError: `path` exists, or another process is writing it.
  """
  partial = path.with_name(f"{path.name}.partial")
  flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
  with open(_open_regular(partial, flags), "r+b") as file:
    _lock_partial(file.fileno(), partial, path)
    try:
      if path.exists():
        raise InputError(f"{path} exists: choose another name or remove it")
      file.truncate()
      yield file
      file.flush()
      os.fsync(file.fileno())
      os.rename(partial, path)
    except BaseException:
      partial.unlink()
      raise
  _sync_folder(path.parent)


@contextlib.contextmanager
def appearing_folder(destination: pathlib.Path) -> Iterator[pathlib.Path]:
  """A folder to write into, renamed when the block ends.

  It is called `destination` + ".partial" until then, and has one writer at a
  time. An error or an interrupt removes it; a killed process leaves it, and the
  next one starts over.

  Raises:
    InputError: `destination` exists and is not an empty folder, or another
      process is writing it.
    OSError: the renamed folder does not hold what was written.
  """
  check_is_new(destination)
  partial = destination.with_name(f"{destination.name}.partial")
  with folder_if_used(destination.parent):
    partial.mkdir(exist_ok=True)
    descriptor = os.open(partial, os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
      _lock_partial(descriptor, partial, destination)
      yield from _filled(partial, destination)
    finally:
      os.close(descriptor)


def _filled(
  partial: pathlib.Path, destination: pathlib.Path
) -> Iterator[pathlib.Path]:
  """The part of `appearing_folder` that holds the lock."""
  try:
    # Another process may have finished in between.
    check_is_new(destination)
    _empty(partial)
    yield partial
    written = _synced_sizes(partial)
    if destination.is_dir():
      destination.rmdir()
    os.replace(partial, destination)
  except BaseException:
    shutil.rmtree(partial, ignore_errors=True)
    raise
  _sync_folder(destination.parent)
  if _synced_sizes(destination) != written:
    raise OSError(
      f"{destination} does not hold what was written: another program has "
      "changed it"
    )


def _empty(folder: pathlib.Path) -> None:
  for entry in folder.iterdir():
    if entry.is_dir() and not entry.is_symlink():
      shutil.rmtree(entry)
    else:
      entry.unlink()


def _lock_partial(
  descriptor: int, partial: pathlib.Path, path: pathlib.Path
) -> None:
  """Locks an open ".partial" until it is closed.

  Raises:
    InputError: another process has the lock, or had it when this one opened
      the file or folder and has renamed or removed it since.
  """
  try:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    is_current = os.path.samestat(os.fstat(descriptor), os.lstat(partial))
  except (BlockingIOError, FileNotFoundError):
    is_current = False
  if not is_current:
    raise InputError(
      f"another process is writing {path}: wait for it or choose another name"
    )


def _synced_sizes(folder: pathlib.Path) -> dict[str, int]:
  """Path below `folder` -> bytes of every file, each synced to the disk."""
  sizes = {}
  for path in folder.rglob("*"):
    if path.is_file():
      with open(path, "rb") as file:
        os.fsync(file.fileno())
      sizes[str(path.relative_to(folder))] = path.stat().st_size
  return sizes


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
