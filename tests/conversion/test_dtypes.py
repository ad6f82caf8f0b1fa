"""Casts against torch, and every number that must not pass."""

import ml_dtypes
import numpy as np
import pytest
import torch

from ddit_jax.conversion.dtypes import (
  CastCounter,
  cast,
  output_dtype,
)
from ddit_jax.errors import InputError

FLOATS = [
  np.float32,
  np.float16,
  ml_dtypes.bfloat16,
  ml_dtypes.float8_e4m3fn,
  ml_dtypes.float8_e5m2,
]
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
FLOAT16 = np.dtype(np.float16)
FLOAT32 = np.dtype(np.float32)


@pytest.mark.parametrize("dtype", FLOATS)
def test_largest_magnitude(dtype):
  array = np.array([[0.5, -3.0], [-0.0, 2.0]]).astype(dtype)
  counter = CastCounter()
  wider = np.dtype(np.float64)
  cast("x", array, wider, counter)
  assert counter.counts[array.dtype.name, "float64"]["largest"] == 3.0
  assert cast("x", array[:, :0], wider).size == 0


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("sign", [1, -1])
def test_nan_is_found_wherever_it_is(dtype, sign):
  # More numbers than are looked at together.
  array = np.ones(2**18 + 3).astype(dtype)
  for place in (0, 2**18 - 1, 2**18 + 2):
    broken = array.copy()
    broken[place] = np.copysign(np.nan, sign)
    line = f"tensor x holds NaN .1 of its 262,147 .* first at .{place}."
    with pytest.raises(InputError, match=line):
      cast("x", broken, broken.dtype)


@pytest.mark.parametrize("dtype", [FLOAT32, FLOAT16, BFLOAT16])
@pytest.mark.parametrize("sign", [1, -1])
def test_infinity_is_refused(dtype, sign):
  array = np.array([[1, 2], [sign * np.inf, np.inf]]).astype(dtype)
  line = r"infinity \(2 of its 4 values, the first at \[1, 0\]"
  with pytest.raises(InputError, match=line):
    cast("x", array, array.dtype)


@pytest.mark.parametrize(
  ("target", "torch_dtype"),
  [
    (FLOAT16, torch.float16),
    (BFLOAT16, torch.bfloat16),
    (FLOAT32, torch.float32),
  ],
)
@pytest.mark.parametrize("dtype", FLOATS)
def test_casts_round_as_torch_does(dtype, target, torch_dtype):
  rng = np.random.default_rng(0)
  array = (rng.normal(size=1000) * 10).astype(dtype)
  got = cast("x", array, target)
  expected = torch.tensor(array.astype(np.float32)).to(torch_dtype).float()
  np.testing.assert_array_equal(got.astype(np.float32), expected.numpy())


def test_equal_dtype_is_not_copied_nor_counted():
  counter = CastCounter()
  array = np.ones(3, np.float32)
  assert cast("x", array, FLOAT32, counter) is array
  assert counter.counts == {}


def test_too_large_is_refused_just_above_the_rounding_limit():
  # 65520 is the midpoint above float16's largest number, 65504.
  below = np.array([65519.9], np.float32)
  assert cast("x", below, FLOAT16)[0] == 65504
  with pytest.raises(InputError, match="tensor x reaches 65520"):
    cast("x", np.array([-65520.0], np.float32), FLOAT16)
  with pytest.raises(InputError, match="--dtype=float32"):
    cast("x", np.array([3.4e38], np.float32), BFLOAT16)


def test_counts_what_became_zero():
  counter = CastCounter()
  array = np.array([1.0, 1e-9, 0.0, -1e-9], np.float32)
  cast("x", array, FLOAT16, counter)
  cast("y", array[:1], FLOAT16, counter)
  count = counter.counts["float32", "float16"]
  want = {"tensors": 2, "numbers": 5, "flushed": 2, "largest": 1.0}
  assert count == want


def test_output_dtypes():
  assert output_dtype("F16", None) == FLOAT16
  assert output_dtype("BF16", None) == BFLOAT16
  assert output_dtype("F32", "bfloat16") == BFLOAT16
  # Eight-bit floats fit into bfloat16, each of them exactly.
  for name, dtype in (
    ("F8_E4M3", ml_dtypes.float8_e4m3fn),
    ("F8_E5M2", ml_dtypes.float8_e5m2),
  ):
    assert output_dtype(name, None) == BFLOAT16
    every = np.arange(256, dtype=np.uint8).view(dtype).astype(np.float32)
    every = every[np.isfinite(every)]
    np.testing.assert_array_equal(
      every, every.astype(BFLOAT16).astype(np.float32)
    )
