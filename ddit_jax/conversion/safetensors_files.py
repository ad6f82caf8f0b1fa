"""Reading safetensors files without torch: headers, shards, lazy tensors.

Every tensor is its own memory map, so that a tensor that is let go leaves no
page in memory, and eight-bit floats can be read, which numpy's own reader of
the format cannot.
"""

import dataclasses
import json
import math
import pathlib
import struct

import ml_dtypes
import numpy as np

from ddit_jax.conversion.errors import ConversionError, named
from ddit_jax.conversion.foreign import BEGINNING_BYTES, format_under_wrong_name

DTYPES: dict[str, np.dtype] = {
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
INDEX_SUFFIX = ".safetensors.index.json"
METADATA_KEY = "__metadata__"
# The format's own limit; a larger number is not a header's length.
MAX_HEADER_BYTES = 100_000_000
# A file begins with the length of its header.
_LENGTH_BYTES = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoredTensor:
  """One tensor of a file, not yet read.

  Attributes:
    name: its full name in the file.
    file: where it lies.
    dtype: the format's name of its dtype, a key of `DTYPES`.
    shape: its shape.
    start: first byte in the file.
  """

  name: str
  file: pathlib.Path
  dtype: str
  shape: tuple[int, ...]
  start: int

  @property
  def label(self) -> str:
    """Its name and file, for messages."""
    return f"{self.name} of {self.file}"

  @property
  def nbytes(self) -> int:
    """Bytes in the file."""
    return math.prod(self.shape) * DTYPES[self.dtype].itemsize

  def read(self) -> np.ndarray:
    """The tensor, mapped from the file; its pages are read when touched."""
    dtype = DTYPES[self.dtype]
    if not self.nbytes:
      return np.zeros(self.shape, dtype)
    return np.memmap(self.file, dtype, "r", self.start, self.shape)


def read_header(path: pathlib.Path) -> dict[str, StoredTensor]:
  """Name to tensor of one file, after checking that it is whole.

  Raises:
    ConversionError: the file is truncated or no safetensors file; names are
      repeated; a tensor's bytes do not fit its shape, overlap another's, or
      leave a hole.
  """
  header, data_start = _parse_header(path)
  header.pop(METADATA_KEY, None)
  data_size = path.stat().st_size - data_start
  entries = [_entry(path, name, entry) for name, entry in header.items()]
  # A tensor without bytes starts where the next one does.
  entries.sort(key=lambda e: (e["begin"], e["end"]))
  position = 0
  for entry in entries:
    _check_bytes(path, entry, position, data_size)
    position = entry["end"]
  if position != data_size:
    raise ConversionError(
      f"{path} is damaged: {data_size - position} bytes follow its last "
      "tensor; fetch it again"
    )
  return {
    entry["name"]: StoredTensor(
      name=entry["name"],
      file=path,
      dtype=entry["dtype"],
      shape=entry["shape"],
      start=data_start + entry["begin"],
    )
    for entry in entries
  }


def read_shards(index: pathlib.Path) -> dict[str, StoredTensor]:
  """Name to tensor of all files that an index lists.

  Raises:
    ConversionError: the index is unreadable, or disagrees with its files.
  """
  weight_map = _weight_map(index)
  tensors: dict[str, StoredTensor] = {}
  for file_name in sorted(set(weight_map.values())):
    if pathlib.PurePath(file_name).name != file_name:
      raise ConversionError(
        f"{index} lists {file_name!r}, which is no name of a file beside it: "
        "fetch the index again"
      )
    path = index.parent / file_name
    if not path.is_file():
      raise ConversionError(
        f"{index} lists {file_name}, which is missing: fetch it"
      )
    found = read_header(path)
    listed = {n for n, f in weight_map.items() if f == file_name}
    if absent := sorted(listed - found.keys()):
      raise ConversionError(
        f"{index} places {named(absent)} in {file_name}, which lacks them: "
        "the index belongs to other files; fetch both again"
      )
    if extra := sorted(found.keys() - listed):
      where = "lists elsewhere" if extra[0] in weight_map else "does not list"
      raise ConversionError(
        f"{path} holds {named(extra)}, which {index.name} {where}: the index "
        "belongs to other files, or tensors are duplicated; fetch both again"
      )
    tensors |= found
  return tensors


def _parse_header(path: pathlib.Path) -> tuple[dict, int]:
  size = path.stat().st_size
  with open(path, "rb") as file:
    beginning = file.read(BEGINNING_BYTES)
    if len(beginning) < _LENGTH_BYTES:
      raise ConversionError(f"{path} has only {size} bytes: fetch it again")
    length = struct.unpack("<Q", beginning[:_LENGTH_BYTES])[0]
    if length > min(size - _LENGTH_BYTES, MAX_HEADER_BYTES):
      # Not asked before: a header's length may begin like another format.
      if what := format_under_wrong_name(beginning):
        raise ConversionError(f"{path} is no safetensors file but {what}")
      raise ConversionError(
        f"{path} ({size} bytes) is truncated or not a safetensors file: its "
        f"first bytes announce a header of {length} bytes; fetch it again"
      )
    file.seek(_LENGTH_BYTES)
    raw = file.read(length)
  try:
    header = json.loads(raw, object_pairs_hook=_without_repetition)
  except _RepeatedKey as error:
    raise ConversionError(
      f"{path} is damaged: it names {error} twice; fetch it again"
    ) from error
  except ValueError as error:
    raise ConversionError(
      f"{path} is damaged or not a safetensors file: its header is no JSON "
      f"({error}); fetch it again"
    ) from error
  if not isinstance(header, dict):
    raise ConversionError(
      f"{path} is damaged: its header is no table; fetch it again"
    )
  return header, _LENGTH_BYTES + length


def _entry(path: pathlib.Path, name: str, entry: dict) -> dict:
  try:
    begin, end = entry["data_offsets"]
    shape = tuple(entry["shape"])
    dtype = entry["dtype"]
    is_whole = all(isinstance(n, int) and n >= 0 for n in (*shape, begin, end))
  except (KeyError, TypeError, ValueError):
    is_whole = False
  if not is_whole:
    raise ConversionError(
      f"{path} is damaged: it describes tensor {name!r} wrongly, {entry}; "
      "fetch it again"
    )
  if dtype not in DTYPES:
    raise ConversionError(
      f"{path}: tensor {name} has dtype {dtype!r}, which is not readable; "
      f"known are {', '.join(DTYPES)}"
    )
  return dict(name=name, dtype=dtype, shape=shape, begin=begin, end=end)


def _check_bytes(
  path: pathlib.Path, entry: dict, position: int, data_size: int
) -> None:
  name, begin, end = entry["name"], entry["begin"], entry["end"]
  if end > data_size:
    raise ConversionError(
      f"{path} is truncated: tensor {name} ends at byte {end} of its data but "
      f"there are only {data_size}; fetch it again"
    )
  if begin != position:
    what = "overlaps the one before" if begin < position else "leaves a hole"
    raise ConversionError(
      f"{path} is damaged: tensor {name} starts at byte {begin}, not "
      f"{position}, and {what}; fetch it again"
    )
  needed = math.prod(entry["shape"]) * DTYPES[entry["dtype"]].itemsize
  if end - begin != needed:
    raise ConversionError(
      f"{path} is damaged: tensor {name} of shape {list(entry['shape'])} and "
      f"dtype {entry['dtype']} needs {needed} bytes but has {end - begin}; "
      "fetch it again"
    )


def _weight_map(index: pathlib.Path) -> dict[str, str]:
  try:
    table = json.loads(
      index.read_bytes(), object_pairs_hook=_without_repetition
    )
    weight_map = dict(table["weight_map"])
  except _RepeatedKey as error:
    raise ConversionError(
      f"{index} lists {error} twice: fetch it again"
    ) from error
  except (ValueError, TypeError, KeyError) as error:
    raise ConversionError(
      f"{index} is not a shard index, a JSON table with a weight_map: fetch it "
      "again"
    ) from error
  if not weight_map or not all(isinstance(f, str) for f in weight_map.values()):
    raise ConversionError(
      f"{index} has an empty or malformed weight_map: fetch it again"
    )
  return weight_map


class _RepeatedKey(Exception):
  """A JSON table has one key twice."""


def _without_repetition(pairs: list[tuple[str, object]]) -> dict:
  table = dict(pairs)
  if len(table) != len(pairs):
    keys = [key for key, _ in pairs]
    raise _RepeatedKey(repr(next(k for k in keys if keys.count(k) > 1)))
  return table
