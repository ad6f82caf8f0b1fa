"""Every rearrangement against loops, and back again."""

import ml_dtypes
import numpy as np
import pytest

from ddit_jax.conversion import rearrange
from ddit_jax.conversion.rearrange import copy_into

# Rearrangement, shape of our whole array, rows: all that the key map uses.
CASES = [
  ("linear", (5, 7), slice(None)),
  ("linear_1x1", (4, 5), slice(None)),
  ("norm", (7,), slice(None)),
  ("rows", (4, 6, 5), slice(None)),
  ("rows", (4, 6, 5), slice(0, 2)),
  ("rows", (4, 6, 5), slice(1, None, -1)),
  ("rows", (4, 2, 5), slice(None, None, -1)),
  ("rows_1x1", (4, 3, 5), slice(2, 3)),
  ("heads", (5, 3, 2, 4), slice(1, 2)),
  ("heads", (5, 3, 2, 4), slice(None)),
  ("heads_out", (2, 4, 5), slice(None)),
  ("conv", (3, 2, 4, 5), slice(None)),
  ("patch", (12, 5), slice(None)),
  ("tokens", (8, 6), slice(None)),
  ("grid", (3, 3, 4), slice(None)),
  ("matrix", (3, 4), slice(None)),
]


def parts(kind, shape, rows):
  """Pattern of the weight, its index and sizes."""
  pattern = next(iter(rearrange.leaves(kind)))[2]
  index = rearrange.index_of(pattern, rows)
  ours = np.broadcast_to(0, shape)[index].shape
  return pattern, index, ours, rearrange.axis_sizes(pattern, ours, 2)


@pytest.mark.parametrize(("kind", "shape", "rows"), CASES)
def test_there_and_back(kind, shape, rows):
  pattern, index, ours, sizes = parts(kind, shape, rows)
  stored_shape = rearrange.their_shape(pattern, ours, sizes)
  stored = np.arange(np.prod(stored_shape)).reshape(stored_shape)
  whole = np.full(shape, -1)
  whole[index] = rearrange.to_ours(pattern, stored, sizes)
  # Each number arrives once, and nothing else was touched.
  assert sorted(whole[whole >= 0]) == list(range(stored.size))
  back = rearrange.to_theirs(pattern, whole[index], sizes)
  np.testing.assert_array_equal(back, stored)


def ours_of(kind, stored, shape, rows=slice(None)):
  pattern, index, _, sizes = parts(kind, shape, rows)
  whole = np.full(shape, -1)
  whole[index] = rearrange.to_ours(pattern, stored, sizes)
  return whole


def test_linear_is_a_transpose():
  ours = ours_of("linear", np.arange(6).reshape(2, 3), (3, 2))
  np.testing.assert_array_equal(ours, [[0, 3], [1, 4], [2, 5]])


def test_reversed_rows_swap_scale_and_shift():
  scale_shift = np.repeat([10, 20], 2)[:, None]
  ours = ours_of("rows", scale_shift, (1, 3, 2), slice(1, None, -1))
  np.testing.assert_array_equal(ours[0], [[20, 20], [10, 10], [-1, -1]])


def test_fused_heads_by_loop():
  heads, head_dim, width = 2, 4, 5
  stored = np.arange(3 * heads * head_dim * width).reshape(-1, width)
  ours = ours_of("heads", stored, (width, 3, heads, head_dim))
  for i, q, h, d in np.ndindex(ours.shape):
    assert ours[i, q, h, d] == stored[(q * heads + h) * head_dim + d, i]


def test_patch_runs_row_column_channel():
  channels = 4
  stored = np.arange(3 * channels * 4).reshape(3, channels, 2, 2)
  ours = ours_of("patch", stored, (16, 3))
  for y, x, c in np.ndindex(2, 2, channels):
    row = (y * 2 + x) * channels + c
    np.testing.assert_array_equal(ours[row], stored[:, c, y, x])


def test_conv_is_height_width_in_out():
  stored = np.arange(2 * 3 * 5 * 4).reshape(2, 3, 5, 4)
  ours = ours_of("conv", stored, (5, 4, 3, 2))
  assert ours[1, 2, 0, 1] == stored[1, 0, 1, 2]


def test_position_table_is_row_major():
  stored = np.arange(9 * 4).reshape(1, 9, 4)
  np.testing.assert_array_equal(
    ours_of("grid", stored, (3, 3, 4))[2, 1], stored[0, 7]
  )


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize(
  ("shape", "axes"),
  [
    ((70, 33), (1, 0)),
    ((70, 33), (0, 1)),
    ((5, 18, 37), (2, 0, 1)),
    ((5, 18, 37), (1, 2, 0)),
    ((3, 4, 5, 6), (2, 3, 1, 0)),
    ((9,), (0,)),
    ((), ()),
  ],
)
def test_copy_into_equals_assignment(dtype, shape, axes):
  rng = np.random.default_rng(0)
  source = rng.normal(size=shape).astype(dtype).transpose(axes)
  target = np.empty(source.shape, dtype)
  copy_into(target, source)
  np.testing.assert_array_equal(
    target.astype(np.float32), source.astype(np.float32)
  )


def test_copy_into_keeps_nan_bits():
  bits = np.array([[0x7FC1, 0x8000], [0x0001, 0xFF80]], np.uint16)
  source = bits.view(ml_dtypes.bfloat16)
  target = np.empty((2, 2), ml_dtypes.bfloat16)
  copy_into(target, source.T)
  np.testing.assert_array_equal(target.view(np.uint16), bits.T)


def test_slices_of_a_transposed_array_are_views():
  stored = np.arange(24).reshape(6, 4)
  pattern, _, _, sizes = parts("heads", (4, 3, 2, 3), slice(0, 1))
  ours = rearrange.to_ours(pattern, stored, sizes)
  assert np.shares_memory(ours, stored)
