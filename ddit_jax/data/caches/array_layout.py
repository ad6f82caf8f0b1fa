"""Arrays of one shape and dtype as bytes, without loss."""

import dataclasses
import math

import ml_dtypes
import numpy as np

# What encoders may compute in. Stored little-endian, the last axis fastest.
_DTYPES = {
  "float32": np.dtype(np.float32),
  "bfloat16": np.dtype(ml_dtypes.bfloat16),
}


@dataclasses.dataclass(frozen=True)
class ArrayLayout:
  """How an array of a cache is stored.

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
      raise ValueError(f"{self.shape} is no shape of positive sizes")

  @property
  def num_bytes(self) -> int:
    """Size of one array."""
    return math.prod(self.shape) * _DTYPES[self.dtype].itemsize

  def pack(self, array: np.ndarray) -> bytes:
    """The bytes of an array of this shape.

    Raises:
      ValueError: another shape, or this dtype does not hold its numbers.
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

  def unpack(self, data: bytes) -> np.ndarray:
    """The array of some bytes; it is read-only.

    Raises:
      ValueError: another number of bytes.
    """
    if len(data) != self.num_bytes:
      raise ValueError(f"{len(data)} bytes instead of {self.num_bytes}")
    return np.frombuffer(data, _DTYPES[self.dtype]).reshape(self.shape)

  def zeros(self) -> np.ndarray:
    """An array of zeros."""
    return np.zeros(self.shape, _DTYPES[self.dtype])
