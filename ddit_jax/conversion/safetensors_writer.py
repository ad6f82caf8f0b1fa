"""Writing safetensors files tensor by tensor, in shards with an index."""

import collections
import dataclasses
import json
import math
import pathlib
import struct
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from ddit_jax.conversion.safetensors_files import (
  DTYPES,
  INDEX_SUFFIX,
  METADATA_KEY,
)

# Where Hugging Face's own libraries cut.
MAX_SHARD_BYTES = 5 * 10**9
_SUFFIX = ".safetensors"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TensorSpec:
  """A tensor to be written.

  Attributes:
    name: its name in the file.
    dtype: the format's name of its dtype.
    shape: its shape.
  """

  name: str
  dtype: str
  shape: tuple[int, ...]

  @property
  def nbytes(self) -> int:
    """Bytes in the file."""
    return math.prod(self.shape) * DTYPES[self.dtype].itemsize


def assign_shards(
  specs: list[TensorSpec], stem: str, *, max_bytes: int = MAX_SHARD_BYTES
) -> dict[str, str]:
  """Tensor name to file name, filling shard after shard in the given order.

  Args:
    specs: the tensors of one folder.
    stem: name of the files without suffix, e.g. "model".
    max_bytes: a shard may only be larger if it holds a single tensor.
  """
  shards: list[list[str]] = [[]]
  filled = 0
  for spec in specs:
    if shards[-1] and filled + spec.nbytes > max_bytes:
      shards.append([])
      filled = 0
    shards[-1].append(spec.name)
    filled += spec.nbytes
  if len(shards) == 1:
    return {spec.name: stem + _SUFFIX for spec in specs}
  return {
    name: f"{stem}-{number:05d}-of-{len(shards):05d}{_SUFFIX}"
    for number, shard in enumerate(shards, start=1)
    for name in shard
  }


def write_folder(
  folder: pathlib.Path,
  specs: list[TensorSpec],
  files: Mapping[str, str],
  *,
  stem: str,
  read: Callable[[TensorSpec], np.ndarray],
) -> None:
  """Writes all tensors of a folder, each while the next one is read.

  Args:
    folder: an existing folder.
    specs: the tensors.
    files: tensor name to file name, e.g. from `assign_shards`.
    stem: name of the index, which is written when there are several files.
    read: gives a tensor's numbers; called in another thread, for one
      tensor after another.
  """
  names = sorted(set(files.values()))
  for file_name in names:
    own = [spec for spec in specs if files[spec.name] == file_name]
    _write_file(folder / file_name, own, read)
  if len(names) > 1:
    index = {
      "metadata": {"total_size": sum(spec.nbytes for spec in specs)},
      "weight_map": dict(sorted(files.items())),
    }
    text = json.dumps(index, indent=2) + "\n"
    (folder / (stem + INDEX_SUFFIX)).write_text(text)


def _write_file(
  path: pathlib.Path,
  specs: list[TensorSpec],
  read: Callable[[TensorSpec], np.ndarray],
) -> None:
  # Wide dtypes first keeps every tensor aligned to its own size.
  specs = sorted(specs, key=lambda s: (-DTYPES[s.dtype].itemsize, s.name))
  header: dict[str, object] = {METADATA_KEY: {"format": "pt"}}
  position = 0
  for spec in specs:
    end = position + spec.nbytes
    header[spec.name] = {
      "dtype": spec.dtype,
      "shape": list(spec.shape),
      "data_offsets": [position, end],
    }
    position = end
  raw = json.dumps(header, separators=(",", ":")).encode()
  raw += b" " * (-len(raw) % 8)
  with open(path, "wb") as file:
    file.write(struct.pack("<Q", len(raw)) + raw)
    for spec, stored in zip(specs, _read_ahead(specs, read), strict=True):
      array = np.asarray(stored, order="C")
      if array.shape != spec.shape or array.dtype != DTYPES[spec.dtype]:
        raise AssertionError(f"{spec} was given {array.dtype} {array.shape}")
      file.write(array.reshape(-1).view(np.uint8).data)


def _read_ahead(
  specs: list[TensorSpec], read: Callable[[TensorSpec], np.ndarray]
) -> Iterator[np.ndarray]:
  """`read` of every spec, begun before the one before it is asked for."""
  pending: collections.deque[Future] = collections.deque()
  with ThreadPoolExecutor(1) as reader:
    for spec in specs:
      pending.append(reader.submit(read, spec))
      if len(pending) > 1:
        yield pending.popleft().result()
    yield from (future.result() for future in pending)
