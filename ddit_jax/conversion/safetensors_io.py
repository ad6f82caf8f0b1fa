"""Safetensors files read and written tensor by tensor, in shards with an index.

The library `safetensors` checks every file. Its NumPy reader cannot read
eight-bit floats and maps a whole file, whose pages then count as memory, and
its writer needs all tensors of a file at once. So tensors are mapped here one
by one, and written while the next one is read.
"""

import collections
import dataclasses
import json
import math
import pathlib
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from ddit_jax.errors import InputError, first_few
from ddit_jax.files import open_regular, read_regular
from ddit_jax.json_files import parse_json, write_json

STORED_DTYPES: dict[str, np.dtype] = {
  "F64": np.dtype(np.float64),
  "F32": np.dtype(np.float32),
  "F16": np.dtype(np.float16),
  "BF16": np.dtype(ml_dtypes.bfloat16),
  "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
  "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
  "I64": np.dtype(np.int64),
  "I32": np.dtype(np.int32),
  "I16": np.dtype(np.int16),
  "I8": np.dtype(np.int8),
  "U8": np.dtype(np.uint8),
  "BOOL": np.dtype(np.bool_),
}
DTYPE_NAMES: dict[np.dtype, str] = {
  d: name for name, d in STORED_DTYPES.items()
}
_INDEX_SUFFIX = ".safetensors.index.json"
# Shard size used by Hugging Face's libraries.
_MAX_SHARD_BYTES = 5 * 10**9
# A file begins with the length of its header.
_LENGTH = struct.Struct("<Q")

_RE_SAVE = (
  "which can run any code when it is read: re-save it once with "
  "torch.load(path, weights_only=True) and "
  "safetensors.torch.save_file(tensors, 'model.safetensors')"
)
_PICKLE_SUFFIXES = (".pth", ".ckpt", ".pt", ".bin", ".pkl")
_PICKLE = f"a PyTorch pickle under another name, {_RE_SAVE}"
_PAGE = "a web page: log in where it was fetched, and fetch it again"
# First bytes of other files often found with a .safetensors suffix.
_BEGINNINGS = (
  (b"version https://git-lfs", "a git-lfs pointer: run `git lfs pull` there"),
  (b"<!doctype", _PAGE),
  (b"<html", _PAGE),
  (b"pk\x03\x04", _PICKLE),
  (b"\x80\x02", _PICKLE),
  (b"gguf", "a GGUF file: fetch the same model as .safetensors"),
)
# In names of files with the same tensors, e.g. model.fp16.safetensors.
_VARIANT = re.compile(r"\.(fp16|fp32|bf16|non_ema|ema)[.-]")


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoredTensor:
  """One tensor of a file, not yet read or written.

  Attributes:
    name: full name in the file.
    file: the file.
    dtype: the format's name of its dtype, a key of `STORED_DTYPES`.
    shape: its shape.
    start: its first byte in the file.
  """

  name: str
  file: pathlib.Path
  dtype: str
  shape: tuple[int, ...]
  start: int = 0

  @property
  def label(self) -> str:
    """Its name and file, for messages."""
    return f"{self.name} of {self.file}"

  @property
  def nbytes(self) -> int:
    """Bytes in the file."""
    return math.prod(self.shape) * STORED_DTYPES[self.dtype].itemsize

  def read(self) -> np.ndarray:
    """The tensor, mapped from the file; its pages are read when touched."""
    dtype = STORED_DTYPES[self.dtype]
    if not self.nbytes:
      return np.zeros(self.shape, dtype)
    return np.memmap(self.file, dtype, "r", self.start, self.shape)


def read_header(path: pathlib.Path) -> dict[str, StoredTensor]:
  """The tensors of one file by name.

  Raises:
    InputError: it is damaged, truncated, or not a safetensors file.
  """
  refuse_pickle(path)
  with open_regular(path) as file:
    try:
      # Checks that the header is valid and that its tensors fill the file.
      with safe_open(path, framework="numpy"):
        pass
      (length,) = _LENGTH.unpack(file.read(_LENGTH.size))
      header = parse_json(file.read(length))
      header.pop("__metadata__", None)
      return {
        name: _stored_tensor(path, name, entry, _LENGTH.size + length)
        for name, entry in header.items()
      }
    except InputError:
      raise
    except (SafetensorError, ValueError) as error:
      raise InputError(_damage(path, error)) from error


def read_metadata(path: pathlib.Path) -> dict[str, str]:
  """The free texts of a file's header, by name.

  Raises:
    InputError: see `read_header`.
  """
  refuse_pickle(path)
  with open_regular(path):
    try:
      with safe_open(path, framework="numpy") as file:
        return file.metadata() or {}
    except SafetensorError as error:
      raise InputError(_damage(path, error)) from error


def _stored_tensor(
  path: pathlib.Path, name: str, entry: Mapping[str, Any], begin: int
) -> StoredTensor:
  """One tensor of a header that the library found valid.

  Args:
    path: the file.
    name: the tensor's.
    entry: its dtype, shape and place.
    begin: where the file's values begin, in bytes.

  Raises:
    InputError: its dtype is unknown, or its name could not be shown.
  """
  dtype = entry["dtype"]
  if not name.isprintable():
    raise InputError(
      f"{path}: the name of tensor {name!r} has control characters: it is no "
      "published checkpoint"
    )
  # The library also takes {"F32": null} for a dtype.
  if not isinstance(dtype, str) or dtype not in STORED_DTYPES:
    raise InputError(
      f"{path}: tensor {name} has dtype {dtype!r}, which cannot be read; known "
      f"are {', '.join(STORED_DTYPES)}"
    )
  return StoredTensor(
    name=name,
    file=path,
    dtype=dtype,
    shape=tuple(entry["shape"]),
    start=begin + entry["data_offsets"][0],
  )


def read_folder(
  folder: pathlib.Path,
) -> tuple[dict[str, StoredTensor], list[str]]:
  """The tensors of one network's folder, and notes on files that were not read.

  Args:
    folder: holds one file, or shards and their index; variants beside them,
      e.g. in half precision, are not read.

  Raises:
    InputError: it is not clear which files to read, there are none, or one is
      damaged.
  """
  files = sorted(folder.glob("*.safetensors"))
  indices = sorted(folder.glob("*.safetensors.index*.json"))
  main_files = [f for f in files if not _VARIANT.search(f.name)]
  main_indices = [f for f in indices if not _VARIANT.search(f.name)]
  if not main_files and not main_indices:
    main_files, main_indices = files, indices
  if len(main_indices) == 1:
    tensors = _read_shards(main_indices[0])
  elif len(main_files) == 1 and not main_indices:
    tensors = read_header(main_files[0])
  elif main_files or main_indices:
    names = first_few(f.name for f in [*main_indices, *main_files])
    raise InputError(
      f"{folder} holds {names}: keep one file, or one NAME{_INDEX_SUFFIX} with "
      "its shards"
    )
  else:
    refuse_pickles_in(folder)
    raise InputError(f"{folder} holds no .safetensors file: fetch it")
  used = {tensor.file for tensor in tensors.values()}
  if stray := [f.name for f in main_files if f not in used]:
    raise InputError(
      f"{folder} also holds {first_few(stray)}, which its index does not list: "
      "remove what does not belong there"
    )
  return tensors, [
    f"{f} was not read: another variant of the same tensors"
    for f in files
    if f not in used
  ]


def refuse_pickle(path: pathlib.Path) -> None:
  """Raises InputError unless the file's suffix is supported."""
  if path.suffix in _PICKLE_SUFFIXES:
    raise InputError(f"{path} is a pickle, {_RE_SAVE}")
  if path.suffix != ".safetensors":
    raise InputError(
      f"{path} is not a .safetensors file, and nothing else is read: fetch the "
      "same model as .safetensors"
    )


def refuse_pickles_in(folder: pathlib.Path) -> None:
  """Raises InputError if a folder holds weights as a pickle."""
  for entry in sorted(folder.iterdir()):
    if entry.suffix in _PICKLE_SUFFIXES:
      refuse_pickle(entry)


def write_folder(
  folder: pathlib.Path,
  tensors: list[StoredTensor],
  read: Callable[[StoredTensor], np.ndarray],
) -> None:
  """Writes all tensors of a folder, each while the next one is read.

  Args:
    folder: an existing folder.
    tensors: with the name of their file; several files get an index.
    read: returns a tensor's values; called in another thread, for one tensor
      after another.
  """
  names = sorted({tensor.file.name for tensor in tensors})
  for name in names:
    own = [tensor for tensor in tensors if tensor.file.name == name]
    _write_file(folder / name, own, read)
  if len(names) > 1:
    stem = re.sub(r"-\d+-of-\d+\.safetensors", "", names[0])
    index = {
      "metadata": {"total_size": sum(tensor.nbytes for tensor in tensors)},
      "weight_map": dict(sorted((t.name, t.file.name) for t in tensors)),
    }
    write_json(folder / f"{stem}{_INDEX_SUFFIX}", index, indent=2)


def assign_shards(
  sizes: Mapping[str, int], stem: str, *, max_bytes: int = _MAX_SHARD_BYTES
) -> dict[str, str]:
  """Tensor name to file name, filling shard after shard in the given order.

  Args:
    sizes: bytes of each tensor.
    stem: name of the files without suffix, e.g. "model".
    max_bytes: only a shard with a single tensor may be larger.
  """
  shards: list[list[str]] = [[]]
  filled = 0
  for name, nbytes in sizes.items():
    if shards[-1] and filled + nbytes > max_bytes:
      shards.append([])
      filled = 0
    shards[-1].append(name)
    filled += nbytes
  if len(shards) == 1:
    return dict.fromkeys(sizes, f"{stem}.safetensors")
  return {
    name: f"{stem}-{number:05d}-of-{len(shards):05d}.safetensors"
    for number, shard in enumerate(shards, start=1)
    for name in shard
  }


def _write_file(
  path: pathlib.Path,
  tensors: list[StoredTensor],
  read: Callable[[StoredTensor], np.ndarray],
) -> None:
  # Wide dtypes first keeps every tensor aligned to its own size.
  tensors = sorted(
    tensors, key=lambda t: (-STORED_DTYPES[t.dtype].itemsize, t.name)
  )
  header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
  position = 0
  for tensor in tensors:
    end = position + tensor.nbytes
    header[tensor.name] = {
      "dtype": tensor.dtype,
      "shape": list(tensor.shape),
      "data_offsets": [position, end],
    }
    position = end
  raw = json.dumps(header, separators=(",", ":")).encode()
  raw += b" " * (-len(raw) % 8)
  with open(path, "wb") as file:
    file.write(_LENGTH.pack(len(raw)) + raw)
    for tensor, numbers in zip(tensors, _prefetch(tensors, read), strict=True):
      array = np.asarray(numbers, order="C")
      assert array.shape == tensor.shape, (tensor, array.shape)
      assert array.dtype == STORED_DTYPES[tensor.dtype], (tensor, array.dtype)
      file.write(array.reshape(-1).view(np.uint8).data)


def _prefetch(
  tensors: list[StoredTensor], read: Callable[[StoredTensor], np.ndarray]
) -> Iterator[np.ndarray]:
  """`read` of every tensor, started while the one before it is written."""
  pending: collections.deque[Future] = collections.deque()
  with ThreadPoolExecutor(1) as reader:
    for tensor in tensors:
      pending.append(reader.submit(read, tensor))
      if len(pending) > 1:
        yield pending.popleft().result()
    yield from (future.result() for future in pending)


def _read_shards(index: pathlib.Path) -> dict[str, StoredTensor]:
  """The tensors of all files that an index lists."""
  weight_map = _weight_map(index)
  beside = {path.name for path in index.parent.iterdir() if path.is_file()}
  tensors: dict[str, StoredTensor] = {}
  for file_name in sorted(set(weight_map.values())):
    path = index.parent / file_name
    if file_name not in beside:
      raise InputError(
        f"{index} lists {file_name!r}, which is missing or not a file beside "
        "it: fetch both again"
      )
    found = read_header(path)
    listed = {n for n, f in weight_map.items() if f == file_name}
    if absent := sorted(listed - found.keys()):
      raise InputError(
        f"{index} places {first_few(absent)} in {file_name}, which lacks them: "
        "the index belongs to other files; fetch both again"
      )
    if extra := sorted(found.keys() - listed):
      where = "lists elsewhere" if extra[0] in weight_map else "does not list"
      raise InputError(
        f"{path} holds {first_few(extra)}, which {index.name} {where}: the "
        "index belongs to other files, or tensors are duplicated; fetch both "
        "again"
      )
    tensors |= found
  return tensors


def _weight_map(index: pathlib.Path) -> dict[str, str]:
  try:
    weight_map = dict(parse_json(read_regular(index))["weight_map"])
  except InputError:
    raise
  except (ValueError, TypeError, KeyError) as error:
    raise InputError(
      f"{index} is not a shard index, a JSON table with a weight_map ({error}):"
      " fetch it again"
    ) from error
  if not weight_map or not all(isinstance(f, str) for f in weight_map.values()):
    raise InputError(
      f"{index} has an empty or malformed weight_map: fetch it again"
    )
  return weight_map


def _damage(path: pathlib.Path, error: Exception) -> str:
  """Describes why a file is not a valid safetensors file."""
  with open_regular(path) as file:
    beginning = file.read(32).lstrip().lower()
  # A valid header's length may begin like another format: it was tried first.
  for mark, what in _BEGINNINGS:
    if beginning.startswith(mark):
      return f"{path} is not a safetensors file but {what}"
  cause = str(error).removeprefix("Error while deserializing header: ")
  return (
    f"{path} ({path.stat().st_size:,} bytes) is damaged, truncated or not a "
    f"safetensors file ({cause}): fetch it again"
  )
