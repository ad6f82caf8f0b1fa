"""One ArrayRecord file being written, and how large such files become."""

import pathlib
from typing import Any

from array_record.python.array_record_module import ArrayRecordWriter

from ddit_jax.data.unfinished_folder import PrepareError

# One record a chunk is what random access needs; images do not compress.
_OPTIONS = "group_size:1,uncompressed"
# ArrayRecord's headers and padding, measured with 0 to 100,000 records of 1
# byte to 1 MB: never more than these together.
_BYTES_PER_SHARD, _BYTES_PER_RECORD, _BLOCK_FACTOR = 131_072, 64, 1.001


def shards_bytes(
  num_records: int, *, num_shards: int, bytes_per_record: float
) -> int:
  """Size of some shards, a little above what it will be."""
  payload = num_records * (bytes_per_record + _BYTES_PER_RECORD)
  return int(_BLOCK_FACTOR * payload) + _BYTES_PER_SHARD * num_shards


class ShardWriter:
  """ArrayRecord's writer, whose errors are those of the disk."""

  def __init__(self, path: pathlib.Path):
    self._path = path
    self._writer = ArrayRecordWriter(str(path), _OPTIONS)

  def __enter__(self) -> "ShardWriter":
    return self

  def __exit__(self, kind: Any, *_: Any) -> None:
    try:
      self._writer.close()
    except RuntimeError as error:
      # An error on the way here says more than the one of closing.
      if kind is None:
        raise self._failed(error) from error

  def write(self, record: bytes) -> None:
    """Appends a record.

    Raises:
      PrepareError: it cannot be written.
    """
    try:
      self._writer.write(record)
    except RuntimeError as error:
      raise self._failed(error) from error

  def _failed(self, error: RuntimeError) -> PrepareError:
    cause = " ".join(str(error).split())
    return PrepareError(
      f"{self._path} cannot be written ({cause}): make room and run again; "
      "finished shards are kept"
    )
