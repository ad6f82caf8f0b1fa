"""Large files that are written for minutes and appear whole or not at all."""

import contextlib
import os
import pathlib
import tempfile
import time
from collections.abc import Iterator
from typing import BinaryIO

from ddit_jax.data.durable_files import sync_folder

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
