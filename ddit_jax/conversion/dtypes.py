"""Casts between float dtypes: range-checked, counted, and NaN refused."""

import threading

import ml_dtypes
import numpy as np
from jaxtyping import Float

from ddit_jax.conversion.safetensors_io import STORED_DTYPES
from ddit_jax.errors import InputError

# Dtypes that weights may be stored in.
INPUT_DTYPES = ("F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
# The names accepted by `--dtype` takes, with the safetensors name of each.
OUTPUT_DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
# Values compared at once, chosen to fit in a core's cache.
_CHUNK = 2**18


class CastCounter:
  """Counts every kind of cast; several threads may use it.

  Attributes:
    counts: (from, to), NumPy's names of dtypes, -> {"tensors", "numbers",
      "flushed": values that became zero, "largest": magnitude}.
  """

  def __init__(self):
    self.counts: dict[tuple[str, str], dict[str, float]] = {}
    self._lock = threading.Lock()

  def add(
    self, pair: tuple[str, str], *, numbers: int, flushed: int, largest: float
  ) -> None:
    """Adds one tensor."""
    new = {"tensors": 0, "numbers": 0, "flushed": 0, "largest": 0.0}
    with self._lock:
      count = self.counts.setdefault(pair, new)
      count["tensors"] += 1
      count["numbers"] += numbers
      count["flushed"] += flushed
      count["largest"] = max(count["largest"], largest)


def check_dtype(dtype: str | None) -> None:
  """Raises InputError unless `dtype` is None or in `OUTPUT_DTYPES`."""
  if dtype is not None and dtype not in OUTPUT_DTYPES:
    raise InputError(
      f"unknown dtype {dtype!r}; there are {', '.join(OUTPUT_DTYPES)}"
    )


def output_dtype(stored: str, wanted: str | None) -> np.dtype:
  """The dtype a tensor is kept in.

  Args:
    stored: the safetensors name of its dtype.
    wanted: a key of `OUTPUT_DTYPES`, or None to keep what is stored; eight-bit
      floats then become bfloat16, which holds each of them exactly.
  """
  if wanted is not None:
    return STORED_DTYPES[OUTPUT_DTYPES[wanted]]
  return (
    STORED_DTYPES["BF16"] if stored.startswith("F8") else STORED_DTYPES[stored]
  )


def cast(
  name: str,
  array: Float[np.ndarray, "*shape"],
  dtype: np.dtype,
  counter: CastCounter | None = None,
) -> Float[np.ndarray, "*shape"]:
  """`array` in another dtype, rounded to nearest; an equal dtype only checks.

  Args:
    name: for messages.
    array: of any float dtype.
    dtype: the wanted one.
    counter: where the cast is counted.

  Raises:
    InputError: a NaN, an infinity, or a value too large for `dtype`.
  """
  largest = _largest_magnitude(name, array)
  if array.dtype == dtype:
    return array
  # Rounding is monotonic, so if any value overflows, the largest does.
  with np.errstate(over="ignore"):
    rounded = np.float32(largest).astype(dtype).astype(np.float32)
  if not np.isfinite(rounded):
    raise InputError(
      f"tensor {name} reaches {largest:.6g}, above {dtype}'s largest number "
      f"{float(ml_dtypes.finfo(dtype).max):.6g}: use --dtype=float32"
    )
  result = array.astype(dtype)
  if counter is not None:
    flushed = 0
    if _smallest(dtype) > _smallest(array.dtype):
      flushed = int(np.count_nonzero(array) - np.count_nonzero(result))
    counter.add(
      (array.dtype.name, dtype.name),
      numbers=array.size,
      flushed=flushed,
      largest=largest,
    )
  return result


def _largest_magnitude(name: str, array: np.ndarray) -> float:
  """The largest absolute value; InputError for a NaN or an infinity.

  Floats without their sign bit are ordered like integers, infinity and NaN
  last: one pass finds the range and both of them, in any dtype.
  """
  if not array.size:
    return 0.0
  bits = np.dtype(f"u{array.dtype.itemsize}")
  mask = bits.type(np.iinfo(bits).max >> 1)
  flat = array.reshape(-1).view(bits)
  highest = max(
    np.bitwise_and(flat[i : i + _CHUNK], mask).max()
    for i in range(0, flat.size, _CHUNK)
  )
  largest = float(highest.view(array.dtype).astype(np.float32))
  if not np.isfinite(largest):
    what = "NaN" if np.isnan(largest) else "infinity"
    is_broken = ~np.isfinite(array)
    first = np.unravel_index(is_broken.argmax(), array.shape)
    raise InputError(
      f"tensor {name} holds {what} ({np.count_nonzero(is_broken):,} of its "
      f"{array.size:,} values, the first at {[int(i) for i in first]}): it is "
      "broken or was saved after a diverged run; fetch it again or use an "
      "earlier one"
    )
  return largest


def _smallest(dtype: np.dtype) -> float:
  return float(ml_dtypes.finfo(dtype).smallest_subnormal)
