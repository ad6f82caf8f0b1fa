"""Counting products in traced programs, on cases counted by hand."""

import jax
import jax.numpy as jnp
import pytest
from traced_flops import traced_flops


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
