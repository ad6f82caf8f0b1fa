"""The format of a cache of encoder outputs.

The shards "latents" hold a `CachedRecord` for each record of the source, the
shards "features" an array for each usable text.
"""

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
from jaxtyping import Float

from ddit_jax.data.example import BadRecord
from ddit_jax.data.prepare.shards import FolderFormat

CACHE = FolderFormat(
  name="ddit_jax encoder outputs in ArrayRecord",
  version=2,
  command="ddit prepare --cache",
)

# Dtypes of encoder outputs. Stored little-endian, the last axis fastest.
_DTYPES = {
  "float32": np.dtype(np.float32),
  "bfloat16": np.dtype(ml_dtypes.bfloat16),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class CachedRecord:
  """A cache's data for one record of a source.

  Attributes:
    record_id: origin of the record.
    prompt: given text.
    texts: texts to learn.
    rewritten: rewritten captions.
    feature_entries: for each of `texts`, then of `rewritten`, the record of
      its features in the shard of features; None for a text that no task can
      use. () without features.
    bad_record: (reason, detail) if the source could not read it, else None.
    bad_image: (reason, detail) if only its image is unusable.
    moments: of its image; None without a usable image.
  """

  record_id: str
  prompt: str = ""
  texts: tuple[str, ...] = ()
  rewritten: tuple[str, ...] = ()
  feature_entries: tuple[int | None, ...] = ()
  bad_record: tuple[str, str] | None = None
  bad_image: tuple[str, str] | None = None
  moments: bytes | None = None


_FIELDS = {f.name for f in dataclasses.fields(CachedRecord)} - {"moments"}
_SIZE = "moments_bytes"


def encode_cached(record: CachedRecord) -> bytes:
  """One line of JSON, then the bytes of the moments.

  The object has the record's attributes and "moments_bytes". Its keys are
  sorted, without blanks: equal records have equal bytes.
  """
  fields = {name: getattr(record, name) for name in _FIELDS}
  moments = record.moments or b""
  fields[_SIZE] = len(moments)
  # ASCII, because JSON can escape lone surrogates, which UTF-8 cannot encode.
  line = json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
  return b"\n".join((line, moments))


def decode_cached(data: bytes, where: str) -> CachedRecord:
  """The inverse of `encode_cached`.

  Args:
    data: one whole record.
    where: its shard and number, for errors.

  Raises:
    BadRecord: corrupt_shard.
  """
  line, _, moments = data.partition(b"\n")
  try:
    fields = json.loads(line)
    if (size := fields.pop(_SIZE)) != len(moments):
      raise ValueError(f"{len(moments)} bytes of moments instead of {size}")
    # JSON has no tuples.
    for name, value in fields.items():
      fields[name] = tuple(value) if isinstance(value, list) else value
    if set(fields) != _FIELDS:
      raise ValueError(f"has the keys {sorted(fields)}")
    return CachedRecord(**fields, moments=moments or None)
  except (
    AttributeError,
    KeyError,
    TypeError,
    ValueError,
    RecursionError,
  ) as error:
    detail = f"{type(error).__name__}: {' '.join(str(error).split())}"
    raise BadRecord("corrupt_shard", detail, where) from error


@dataclasses.dataclass(frozen=True)
class ArrayFormat:
  """The storage format of a cache's arrays.

  Attributes:
    shape: of one record's array.
    dtype: "float32" or "bfloat16".
  """

  shape: tuple[int, ...]
  dtype: str

  def __post_init__(self):
    if self.dtype not in _DTYPES:
      raise ValueError(f"dtype must be one of {[*_DTYPES]}, got {self.dtype!r}")
    if not all(type(n) is int and n > 0 for n in self.shape):
      raise ValueError(f"{self.shape} is not a shape of positive sizes")

  @property
  def num_bytes(self) -> int:
    """Size of one array."""
    return math.prod(self.shape) * _DTYPES[self.dtype].itemsize

  def pack(self, array: Float[np.ndarray, "*shape"]) -> bytes:
    """The bytes of an array of this shape.

    Raises:
      ValueError: another shape, or values that this dtype does not hold.
    """
    if array.shape != self.shape:
      raise ValueError(f"an array {array.shape} where {self.shape} is stored")
    stored = np.ascontiguousarray(array, _DTYPES[self.dtype])
    if array.dtype != stored.dtype:
      kept = stored.astype(array.dtype)
      if not np.array_equal(kept, array, equal_nan=True):
        raise ValueError(
          f"{array.dtype} numbers that {self.dtype} does not hold exactly"
        )
    return stored.tobytes()

  def unpack(self, data: bytes, record_id: str) -> Float[np.ndarray, "*shape"]:
    """The read-only array with these bytes.

    Raises:
      BadRecord: corrupt_shard, another number of bytes.
    """
    if len(data) != self.num_bytes:
      detail = f"{len(data)} bytes instead of {self.num_bytes}"
      raise BadRecord("corrupt_shard", detail, record_id)
    return np.frombuffer(data, _DTYPES[self.dtype]).reshape(self.shape)

  def zeros(self) -> Float[np.ndarray, "*shape"]:
    """An array of zeros."""
    return np.zeros(self.shape, _DTYPES[self.dtype])

  def as_json(self) -> dict[str, Any]:
    """The input of `array_format`."""
    return {"shape": list(self.shape), "dtype": self.dtype}


def array_format(body: Mapping[str, Any]) -> ArrayFormat:
  """Raises KeyError, TypeError or ValueError for anything else."""
  return ArrayFormat(tuple(body["shape"]), body["dtype"])
