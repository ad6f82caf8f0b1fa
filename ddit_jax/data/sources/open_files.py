"""Files that stay open while they are read from, by any thread."""

import os
import pathlib

from ddit_jax.data.sources.recent_values import RecentValues

_MAX_OPEN = 128


class ChangedFile(ValueError):
  """A file that is not what it was when it was indexed."""


class OpenFile:
  """A file descriptor that closes when nobody holds the object any more."""

  def __init__(self, path: str | os.PathLike, num_bytes: int):
    """Opens a file that must have this size.

    Raises:
      ChangedFile: it has another size.
      OSError: it cannot be opened.
    """
    self._descriptor = None
    self._descriptor = os.open(path, os.O_RDONLY)
    size = os.fstat(self._descriptor).st_size
    if size != num_bytes:
      raise ChangedFile(f"{path} has {size} bytes, its index says {num_bytes}")

  def __del__(self):
    if self._descriptor is not None:
      os.close(self._descriptor)

  def read(self, offset: int, count: int) -> bytes:
    """So many bytes; raises ChangedFile if the file ends before."""
    data = os.pread(self._descriptor, count, offset)
    if len(data) < count:
      raise ChangedFile(f"cut off: {len(data)} of {count} bytes at {offset}")
    return data


class OpenFiles:
  """The files of one source, of which the last used stay open."""

  def __init__(self, paths: list[pathlib.Path], num_bytes: list[int]):
    """Opens nothing yet; the sizes are those of the index."""
    self._paths, self._num_bytes = paths, num_bytes
    # One that drops out is closed when the last reading thread lets go of it.
    self._files = RecentValues(self._opened, capacity=_MAX_OPEN)

  def __getitem__(self, number: int) -> OpenFile:
    """The file of this number; raises ChangedFile and OSError."""
    return self._files[number]

  def _opened(self, number: int) -> OpenFile:
    return OpenFile(self._paths[number], self._num_bytes[number])
