"""T5's kernel of TPUs, interpreted, against loops in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh

from ddit_jax.encoders.t5_attention import biased_attention, kernel_attention
from ddit_jax.sharding.rules import MESH_AXES


def drawn(length, heads, head_dim):
  draw = np.random.default_rng(length)
  stacked = draw.normal(size=(2, length, 3, heads, head_dim))
  bias = draw.normal(size=(1, heads, length, length))
  return jnp.float32(stacked), jnp.float32(bias)


def by_loops(stacked, bias):
  stacked, bias = np.float64(stacked), np.float64(bias)
  want = np.empty(stacked[:, :, 0].shape)
  for example, head in np.ndindex(len(stacked), stacked.shape[3]):
    query, key, value = stacked[example, :, :, head].swapaxes(0, 1)
    weights = np.exp(query @ key.T + bias[0, head])
    weights /= weights.sum(axis=-1, keepdims=True)
    want[example, :, head] = weights @ value
  return want


@pytest.mark.parametrize(
  ("length", "heads", "head_dim"),
  # Padding and all heads in one call; calls of 8 heads; of 2.
  [(7, 3, 8), (64, 16, 64), (256, 4, 64)],
)
def test_the_kernel_equals_loops_in_float64(length, heads, head_dim):
  stacked, bias = drawn(length, heads, head_dim)
  stacked = stacked * head_dim**-0.25
  got = kernel_attention(stacked, bias, True)
  # Rounding of float32 sums.
  np.testing.assert_allclose(got, by_loops(stacked, bias), atol=1e-5)


def test_the_kernels_gradient_is_that_of_plain_operations():
  stacked, bias = drawn(7, 3, 8)

  def pulled(attention):
    out, pull = jax.vjp(attention, stacked, bias)
    return pull(jnp.cos(out))

  ours = pulled(lambda *both: kernel_attention(*both, True))
  for got, want in zip(ours, pulled(biased_attention), strict=True):
    np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize(
  ("platform", "sizes", "dtype", "has_kernel"),
  [
    ("tpu", (1, 4, 1, 2), "bfloat16", True),
    ("tpu", (1, 1, 1, 1), "bfloat16", True),
    ("tpu", (1, 4, 2, 1), "bfloat16", False),
    ("tpu", (1, 4, 1, 2), "float32", False),
    ("gpu", (1, 4, 1, 2), "bfloat16", False),
    ("cpu", (1, 4, 1, 2), "bfloat16", False),
  ],
)
def test_half_precision_on_a_tpu_takes_the_kernel(
  platform, sizes, dtype, has_kernel
):
  """But not where tokens are split."""
  device = AbstractDevice(device_kind="", num_cores=None, platform=platform)
  mesh = AbstractMesh(sizes, MESH_AXES, abstract_device=device)
  stacked = jax.ShapeDtypeStruct((4, 64, 3, 4, 64), dtype)
  bias = jax.ShapeDtypeStruct((1, 4, 64, 64), "float32")
  with jax.sharding.use_abstract_mesh(mesh):
    program = jax.make_jaxpr(biased_attention)(stacked, bias)
  assert ("pallas_call" in str(program)) == has_kernel
