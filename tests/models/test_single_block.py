"""The TPU kernel of short sequences: its values, and that it compiles."""

import jax.numpy as jnp
import numpy as np
import pytest

from ddit_jax.models.single_block import single_block_attention
from tests.models.kernel_check import (
  assert_block_compiles,
  check_kernel,
  needs_tpu_compiler,
)


def over_streams(lengths):
  """The kernel as a function of queries, keys and values of all streams."""

  def attention(*qkv, **options):
    cuts = np.cumsum(lengths)[:-1]
    streams = jnp.split(jnp.stack(qkv, axis=2), cuts, axis=1)
    results = single_block_attention(tuple(streams), **options)
    assert tuple(one.shape[1] for one in results) == lengths
    return jnp.concatenate(results, axis=1)

  return attention


@pytest.mark.parametrize(
  ("lengths", "heads", "head_dim", "batch", "has_mask"),
  # One block of all heads, with padding of one stream and of both; two blocks
  # of two heads.
  [
    ((77,), 3, 8, 2, True),
    ((48, 29), 3, 8, 2, True),
    ((21, 11), 4, 64, 1, False),
  ],
)
def test_the_kernel_equals_loops_in_float64(
  lengths, heads, head_dim, batch, has_mask
):
  check_kernel(
    over_streams(lengths),
    sum(lengths),
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
