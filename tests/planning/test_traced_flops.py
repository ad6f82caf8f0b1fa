"""Counting products in traced programs, on cases counted by hand."""

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import pallas as pl
from jax.experimental.pallas.ops.tpu import splash_attention

from ddit_jax.planning.traced_flops import kernel_flops, traced_flops


def count(function, *shapes):
  arguments = [jax.ShapeDtypeStruct(shape, "f4") for shape in shapes]
  return traced_flops(jax.make_jaxpr(function)(*arguments).jaxpr)


def test_a_matrix_product_is_two_operations_a_multiply_add():
  assert count(jnp.matmul, (3, 5), (5, 7)) == 2 * 3 * 5 * 7


def test_batched_products_count_each_batch():
  def product(x, y):
    return jnp.einsum("bhqd,bhkd->bhqk", x, y)

  shape = (2, 3, 4, 5)
  assert count(product, shape, shape) == 2 * 2 * 3 * 4 * 4 * 5


def test_elementwise_work_does_not_count():
  assert count(lambda x: jnp.tanh(x).sum() + x.mean(), (4, 4)) == 0


def test_convolutions_count_padding_strides_and_groups():
  def convolve(x, kernel):
    return jax.lax.conv_general_dilated(
      x,
      kernel,
      (2, 2),
      "SAME",
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
      feature_group_count=2,
    )

  # Outputs 4 x 4 x 6; each takes 3 x 3 pixels of half the 8 channels.
  flops = count(convolve, (1, 8, 8, 8), (3, 3, 4, 6))
  assert flops == 2 * (4 * 4 * 6) * (3 * 3 * 4)


def test_loops_branches_and_calls_are_entered():
  def step(x, _):
    y = jax.lax.cond(x.sum() > 0, lambda z: z @ z, lambda z: z, x)
    return jax.jit(jnp.matmul)(y, y), None

  def loop(x):
    return jax.lax.scan(step, x, None, length=5)[0]

  assert count(loop, (3, 3)) == 5 * 2 * (2 * 27)


def test_recomputed_products_count():
  def loss(x, weight):
    block = jax.checkpoint(lambda x: jnp.tanh(x @ weight) @ weight)
    return (block(x) ** 2).sum()

  products = count(jax.grad(loss), (3, 3), (3, 3)) / (2 * 27)
  # Two forward, the first again, and a gradient to the input of each.
  assert products == 5


def test_a_loop_of_unknown_length_is_refused():
  def loop(x):
    return jax.lax.while_loop(lambda z: z.sum() < 9, lambda z: z @ z, x)

  with pytest.raises(ValueError, match="unknown number of times"):
    count(loop, (3, 3))


def doubled_product(rows, inner, columns, block):
  """A product in a Pallas kernel, one block of rows at a time."""

  def kernel(x, y, out):
    out[...] = 2 * jnp.dot(x[...], y[...])

  return pl.pallas_call(
    kernel,
    grid=(rows // block,),
    in_specs=[
      pl.BlockSpec((block, inner), lambda i: (i, 0)),
      pl.BlockSpec((inner, columns), lambda i: (0, 0)),
    ],
    out_specs=pl.BlockSpec((block, columns), lambda i: (i, 0)),
    out_shape=jax.ShapeDtypeStruct((rows, columns), jnp.float32),
    interpret=True,
  )


def test_a_kernel_counts_once_per_cell_of_its_grid():
  product = doubled_product(64, 16, 32, 8)

  def repeated(x, y):
    def body(carry, _):
      return carry + product(x, y), None

    total, _ = jax.lax.scan(body, jnp.zeros((64, 32)), None, length=3)
    return total + x @ y

  x, y = jnp.ones((64, 16)), jnp.ones((16, 32))
  jaxpr = jax.make_jaxpr(repeated)(x, y).jaxpr
  once = 2 * 64 * 16 * 32
  assert kernel_flops(jaxpr) == 3 * once
  assert traced_flops(jaxpr) == 4 * once


def test_a_batch_of_kernels_has_a_larger_grid():
  product = jax.vmap(doubled_product(64, 16, 32, 8))
  jaxpr = jax.make_jaxpr(product)(jnp.ones((5, 64, 16)), jnp.ones((5, 16, 32)))
  assert kernel_flops(jaxpr.jaxpr) == 5 * 2 * 64 * 16 * 32


@pytest.mark.parametrize(("is_fused", "products"), [(False, 9), (True, 7)])
def test_jaxs_attention_kernels_count_their_products(is_fused, products):
  """Forward two; backward three and four, or five in one kernel."""
  batch, heads, length, width = 2, 4, 256, 64
  names = ("q", "kv", "kv_compute", "q_dkv", "kv_dkv", "kv_dkv_compute")
  names += () if is_fused else ("q_dq", "kv_dq")
  sizes = splash_attention.BlockSizes(
    **{f"block_{name}": 128 for name in names},
    use_fused_bwd_kernel=is_fused,
  )

  def loss(query, key, value):
    mask = splash_attention.FullMask((length, length))
    kernel = splash_attention.make_splash_mha(
      splash_attention.MultiHeadMask([mask] * heads),
      head_shards=1,
      q_seq_shards=1,
      block_sizes=sizes,
    )
    return jnp.sum(jax.vmap(kernel)(query, key, value))

  x = jax.ShapeDtypeStruct((batch, heads, length, width), jnp.bfloat16)
  jaxpr = jax.make_jaxpr(jax.grad(loss, (0, 1, 2)))(x, x, x).jaxpr
  product = 2 * batch * heads * length * length * width
  assert kernel_flops(jaxpr) == products * product
