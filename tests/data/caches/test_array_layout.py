"""Arrays as bytes: exact, or refused."""

import ml_dtypes
import numpy as np
import pytest

from ddit_jax.data.prepare.cache_format import ArrayLayout


def test_bfloat16_is_the_upper_half_of_float32():
  layout = ArrayLayout((2, 1), "bfloat16")
  # 1.5 = 0x3fc00000 and -2 = 0xc0000000.
  data = layout.pack(np.array([[1.5], [-2.0]], np.float32))
  assert data == bytes.fromhex("c03f 00c0")
  read = layout.unpack(data)
  assert read.dtype == ml_dtypes.bfloat16
  np.testing.assert_array_equal(read.astype(np.float32), [[1.5], [-2.0]])
  assert layout.num_bytes == 4


def test_float32_keeps_every_bit():
  layout = ArrayLayout((3,), "float32")
  array = np.array([1 / 3, -0.0, np.nan], np.float32)
  assert layout.pack(array) == array.tobytes()
  assert layout.unpack(array.tobytes()).tobytes() == array.tobytes()


def test_nan_is_kept_in_bfloat16():
  layout = ArrayLayout((1,), "bfloat16")
  data = layout.pack(np.array([np.nan], np.float32))
  assert np.isnan(layout.unpack(data).astype(np.float32)).all()


@pytest.mark.parametrize(
  ("array", "message"),
  [
    (np.array([1 / 3, 0], np.float32), "does not hold exactly"),
    (np.zeros(3, np.float32), r"\(3,\) where \(2,\) is stored"),
  ],
)
def test_loss_and_other_shapes_are_refused(array, message):
  with pytest.raises(ValueError, match=message):
    ArrayLayout((2,), "bfloat16").pack(array)


def test_other_lengths_of_bytes_are_refused():
  with pytest.raises(ValueError, match="5 bytes instead of 4"):
    ArrayLayout((2,), "bfloat16").unpack(bytes(5))


@pytest.mark.parametrize(
  ("shape", "dtype"),
  [((2,), "float16"), ((0,), "float32"), ((1.0,), "float32")],
)
def test_impossible_layouts_are_refused(shape, dtype):
  with pytest.raises(ValueError, match=r"dtype must be|no shape"):
    ArrayLayout(shape, dtype)


def test_zeros_are_of_the_layout():
  zeros = ArrayLayout((2, 3), "bfloat16").zeros()
  assert (zeros.shape, zeros.dtype) == ((2, 3), ml_dtypes.bfloat16)
  assert not zeros.any()
