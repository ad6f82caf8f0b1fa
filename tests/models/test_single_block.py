"""The TPU kernel of short sequences: its values, and that it compiles."""

import pytest

from ddit_jax.models.single_block import single_block_attention
from tests.models.kernel_check import (
  assert_block_compiles,
  check_kernel,
  needs_tpu_compiler,
)


@pytest.mark.parametrize(
  ("num_tokens", "heads", "head_dim", "batch", "has_mask"),
  # One block of all heads, with padding; two blocks of two heads.
  [(77, 3, 8, 2, True), (32, 4, 64, 1, False)],
)
def test_the_kernel_equals_loops_in_float64(
  num_tokens, heads, head_dim, batch, has_mask
):
  check_kernel(
    single_block_attention,
    num_tokens,
    heads=heads,
    head_dim=head_dim,
    batch=batch,
    has_mask=has_mask,
  )


@needs_tpu_compiler
def test_a_block_with_the_kernel_compiles_for_a_tpu():
  """77 text tokens are no multiple of what the registers hold."""
  names = ("single_block_attention_forward", "single_block_attention_backward")
  assert_block_compiles(256, 77, names)
