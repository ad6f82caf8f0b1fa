"""Every rearrangement against loops, and back again."""

import ml_dtypes
import numpy as np
import pytest

from ddit_jax.conversion import transforms
from ddit_jax.conversion.transforms import (
  MODULE_PATTERNS,
  TENSOR_PATTERNS,
  copy_into,
  our_index,
  their_shape,
  to_ours,
  to_theirs,
)

# Pattern, shape of our whole array, part: all that the mapping table uses.
CASES = [
  ("o i -> i o", (5, 7), {}),
  ("o -> o", (7,), {}),
  ("(r o) i -> i r o", (4, 6, 5), {}),
  ("(r o) i -> i r o", (4, 6, 5), {"r": slice(0, 2)}),
  ("(r o) -> r o", (6, 5), {"r": slice(0, 2)}),
  ("(~r o) i -> i r o", (4, 2, 5), {}),
  ("(~r o) i -> i r o", (4, 6, 5), {"r": slice(0, 2)}),
  ("(~r o) -> r o", (2, 5), {}),
  ("o i -> i r o", (4, 2, 5), {"r": 1}),
  ("o i 1 1 -> i r o", (4, 3, 5), {"r": 2}),
  ("o -> r o", (3, 5), {"r": 2}),
  ("(h d) i -> i q h d", (5, 3, 2, 4), {"q": 1}),
  ("(h d) -> q h d", (3, 2, 4), {"q": 2}),
  ("(q h d) i -> i q h d", (5, 3, 2, 4), {}),
  ("(q h d) -> q h d", (3, 2, 4), {}),
  ("o (h d) -> h d o", (2, 4, 5), {}),
  ("o i y x -> y x i o", (3, 2, 4, 5), {}),
  ("o i 1 1 -> i o", (4, 5), {}),
  ("o c y x -> (y x c) o", (12, 5), {}),
  ("1 n w -> n w", (8, 6), {}),
  ("1 (y x) w -> y x w", (3, 3, 4), {}),
  ("a b -> a b", (3, 4), {}),
]
SIZES = {"y": 2, "x": 2}


def sizes_of(pattern):
  return SIZES if pattern == MODULE_PATTERNS["patch"][0] else {}


def test_cases_cover_every_pattern_of_the_table():
  used = {pattern for pattern, _, _ in CASES}
  known = {p for pair in MODULE_PATTERNS.values() for p in pair}
  assert known | set(TENSOR_PATTERNS.values()) <= used


@pytest.mark.parametrize(("pattern", "shape", "part"), CASES)
def test_there_and_back(pattern, shape, part):
  places = dict(part=part, sizes=sizes_of(pattern))
  stored_shape = their_shape(pattern, shape, **places)
  stored = np.arange(np.prod(stored_shape)).reshape(stored_shape)
  whole = np.full(shape, -1)
  index = our_index(pattern, part)
  whole[index] = to_ours(pattern, stored, shape, **places)
  # Each number arrives once, and nothing else was touched.
  assert sorted(whole[whole >= 0]) == list(range(stored.size))
  back = to_theirs(pattern, whole[index], shape, **places)
  np.testing.assert_array_equal(back, stored)


def test_linear_is_a_transpose():
  weight = np.arange(6).reshape(2, 3)
  ours = to_ours("o i -> i o", weight, (3, 2), part={}, sizes={})
  np.testing.assert_array_equal(ours, [[0, 3], [1, 4], [2, 5]])


def test_reversed_rows_swap_scale_and_shift():
  shift_scale = np.array([10, 11, 20, 21])
  ours = to_ours("(~r o) -> r o", shift_scale, (2, 2), part={}, sizes={})
  np.testing.assert_array_equal(ours, [[20, 21], [10, 11]])


def test_fused_heads_by_loop():
  heads, head_dim, width = 2, 4, 5
  stored = np.arange(3 * heads * head_dim * width).reshape(-1, width)
  shape = (width, 3, heads, head_dim)
  ours = to_ours("(q h d) i -> i q h d", stored, shape, part={}, sizes={})
  for i in range(width):
    for q in range(3):
      for h in range(heads):
        for d in range(head_dim):
          row = (q * heads + h) * head_dim + d
          assert ours[i, q, h, d] == stored[row, i]


def test_patch_runs_row_column_channel():
  out, channels = 3, 4
  stored = np.arange(out * channels * 4).reshape(out, channels, 2, 2)
  pattern = MODULE_PATTERNS["patch"][0]
  ours = to_ours(pattern, stored, (16, out), part={}, sizes=SIZES)
  for y in range(2):
    for x in range(2):
      for c in range(channels):
        row = (y * 2 + x) * channels + c
        np.testing.assert_array_equal(ours[row], stored[:, c, y, x])


def test_conv_is_height_width_in_out():
  stored = np.arange(2 * 3 * 5 * 4).reshape(2, 3, 5, 4)
  ours = to_ours("o i y x -> y x i o", stored, (5, 4, 3, 2), part={}, sizes={})
  assert ours[1, 2, 0, 1] == stored[1, 0, 1, 2]


def test_position_table_is_row_major():
  stored = np.arange(9 * 4).reshape(1, 9, 4)
  ours = to_ours("1 (y x) w -> y x w", stored, (3, 3, 4), part={}, sizes={})
  np.testing.assert_array_equal(ours[2, 1], stored[0, 7])


def test_wrong_number_of_dimensions():
  with pytest.raises(ValueError, match="does not suit"):
    their_shape("o i -> i o", (2, 3, 4), {}, {})


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


def test_pieces_of_a_transposed_array_are_views():
  stored = np.arange(24).reshape(6, 4)
  places = dict(part={"q": 0}, sizes={})
  ours = to_ours("(h d) i -> i q h d", stored, (4, 3, 2, 3), **places)
  assert np.shares_memory(ours, stored)
  assert transforms.our_index("(h d) i -> i q h d", {"q": 0})[1] == 0
