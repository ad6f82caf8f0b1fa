"""The TPU kernel, interpreted, against float64 loops; and that it compiles."""

import pytest

from ddit_jax.models.splash import block_size, splash_attention
from tests.models.kernel_check import (
  assert_block_compiles,
  check_kernel,
  needs_tpu_compiler,
)


@pytest.mark.parametrize(
  ("num_tokens", "batch", "has_mask"),
  [(77, 1, False), (77, 2, True), (128, 2, True), (320, 1, True)],
)
def test_the_kernel_equals_loops_in_float64(num_tokens, batch, has_mask):
  check_kernel(splash_attention, num_tokens, batch=batch, has_mask=has_mask)


@pytest.mark.parametrize(
  ("num_tokens", "block"),
  # 320 joint tokens are padded to 384, the 1,280 of `stage2_highres` not, the
  # 4,352 of 1,024 pixels to 4,480.
  [(1, 128), (128, 128), (320, 384), (1088, 384), (1280, 640), (4352, 640)],
)
def test_blocks_are_large_but_pad_little(num_tokens, block):
  assert block_size(num_tokens) == block


@needs_tpu_compiler
def test_a_block_with_the_kernel_compiles_for_a_tpu():
  """One forward kernel, and one for both gradients."""
  names = ("splash_mha_fwd_segmented", "splash_mha_dkv_segmented")
  assert_block_compiles(1024, 77, names)
