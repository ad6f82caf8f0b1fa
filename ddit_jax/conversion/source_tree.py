"""Which files of a source are read, and where they may be copied to."""

import pathlib
from collections.abc import Iterable

from ddit_jax.errors import InputError


def check_source_tree(root: pathlib.Path, places: Iterable[str]) -> None:
  """Checks every file and folder below some places, before any is read.

  A link may point inside `root`. If `root` lies in the cache of the Hugging
  Face hub, MODEL/snapshots/REVISION, links may also point into MODEL/blobs,
  where that cache keeps the files themselves. `root` itself may be a link: the
  user named it.

  Args:
    root: an existing folder.
    places: names of files and folders in it; absent ones are skipped. "." is
      all of it.

  Raises:
    InputError: a link leads elsewhere or nowhere, or a file is a pipe, a device
      or a socket.
  """
  allowed = _allowed_folders(root.resolve())
  pending = [root / place for place in places]
  seen = set()
  while pending:
    path = pending.pop()
    real = _inside(path, allowed)
    if real.is_dir():
      if real not in seen:
        seen.add(real)
        pending += real.iterdir()
    elif real.exists() and not real.is_file():
      raise InputError(
        f"{path} is not a regular file: remove it, or copy the checkpoint again"
      )


def check_outside(
  destination: pathlib.Path, folders: Iterable[pathlib.Path]
) -> None:
  """Raises InputError if a new folder would lie in one that is copied."""
  for folder in folders:
    if destination.resolve().is_relative_to(folder.resolve()):
      raise InputError(
        f"{destination} would lie inside {folder}, which is copied: choose a "
        "place outside"
      )


def _allowed_folders(root: pathlib.Path) -> list[pathlib.Path]:
  blobs = [
    folder.parent / "blobs"
    for folder in root.parents
    if folder.name == "snapshots"
  ]
  return [root, *(folder for folder in blobs if folder.is_dir())]


def _inside(path: pathlib.Path, allowed: list[pathlib.Path]) -> pathlib.Path:
  """The path without links; InputError if it leads out or nowhere."""
  try:
    real = path.resolve()
    is_broken = path.is_symlink() and not real.exists()
  except (OSError, RuntimeError) as error:
    raise InputError(f"{path} is a link that leads in circles") from error
  if not any(real.is_relative_to(folder) for folder in allowed):
    raise InputError(
      f"{path} is a link to {real}, outside of {allowed[0]}: links out of a "
      "checkpoint are not followed; put the file itself there"
    )
  if is_broken:
    raise InputError(
      f"{path} is a link to {real}, which is missing: fetch the file again"
    )
  return real
