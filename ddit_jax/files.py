"""Small files that appear whole or not at all, and JSON of limited size."""

import contextlib
import difflib
import json
import os
import pathlib
import tempfile
import time
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO


def replace_file(
  path: pathlib.Path, data: bytes, *, survives_power_loss: bool = True
) -> None:
  """Writes a file that appears whole or not at all.

  Args:
    path: a file already there is replaced.
    data: its new contents.
    survives_power_loss: True waits for the disk; False is enough where only
      this process can be killed, or where a damaged file does no harm.
  """
  partial = path.with_name(f"{path.name}.partial")
  with open(partial, "wb") as file:
    file.write(data)
    if survives_power_loss:
      file.flush()
      os.fsync(file.fileno())
  os.replace(partial, path)
  if survives_power_loss:
    sync_folder(path.parent)


def sync_folder(folder: pathlib.Path) -> None:
  """Makes the names in a folder survive a power loss."""
  descriptor = os.open(folder, os.O_RDONLY)
  try:
    os.fsync(descriptor)
  finally:
    os.close(descriptor)


def read_json_object(path: pathlib.Path, *, max_bytes: int) -> dict[str, Any]:
  """A JSON object from a file of limited size.

  Raises:
    ValueError: the file is too large, no JSON, or no object.
  """
  size = path.stat().st_size
  if size > max_bytes:
    raise ValueError(f"{path} has {size} bytes, at most {max_bytes} are read")
  try:
    body = json.loads(path.read_bytes().decode())
  except (ValueError, RecursionError) as error:
    cause = " ".join(str(error).split())
    raise ValueError(f"{path} is no JSON: {cause}") from error
  if not isinstance(body, dict):
    raise ValueError(f"{path} must hold a JSON object {{...}}")
  return body


def check_known(
  names: Iterable[str], known: Iterable[str], *, what: str
) -> None:
  """Checks keys or kinds that a person wrote.

  Args:
    names: what was written.
    known: what there is.
    what: the beginning of the message, e.g. "filters has no key".

  Raises:
    ValueError: for the first name that is unknown.
  """
  known = sorted(known)
  for name in names:
    if name in known:
      continue
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ValueError(f"{what} {name!r}: {hint}there are {', '.join(known)}")


# Writers touch their file more often than that.
_SECONDS_UNTIL_ABANDONED = 3600.0


@contextlib.contextmanager
def appearing_file(path: pathlib.Path) -> Iterator[BinaryIO]:
  """A file to write to that takes its name when the block ends.

  Where the block raises, nothing is left. Several processes may write the same
  file: the last one's stays. What killed writers left an hour ago is removed.
  """
  _remove_abandoned(path)
  with tempfile.NamedTemporaryFile(
    dir=path.parent, prefix=f"{path.name}.", suffix=".partial", delete=False
  ) as file:
    try:
      yield file
      file.flush()
      os.fsync(file.fileno())
      # Temporary files are their owner's alone.
      os.chmod(file.name, 0o644)
      os.replace(file.name, path)
    except BaseException:
      os.unlink(file.name)
      raise
  sync_folder(path.parent)


def _remove_abandoned(path: pathlib.Path) -> None:
  for partial in path.parent.glob(f"{path.name}.*.partial"):
    try:
      if time.time() - partial.stat().st_mtime > _SECONDS_UNTIL_ABANDONED:
        partial.unlink()
    except FileNotFoundError:
      # Another writer finished or removed it.
      continue
