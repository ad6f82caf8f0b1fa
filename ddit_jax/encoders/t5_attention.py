"""T5's attention, whose scores have a bias and are not scaled.

On TPUs texts of a few hundred tokens take the kernel of `single_block`; their
scores are too small to fill XLA's products.
"""

import functools

import jax
from jax.sharding import AbstractMesh, PartitionSpec
from jaxtyping import Array, Float

from ddit_jax.models.attention import StackedHeads, choose_kernel
from ddit_jax.sharding.rules import divisible_spec, num_shards, partition_spec

_Attended = Float[Array, "batch length heads head_dim"]
_Bias = Float[Array, "1 heads queries keys"]


def biased_attention(stacked: StackedHeads, bias: _Bias) -> _Attended:
  """Softmax attention of every token to every other.

  Args:
    stacked: queries, keys and values.
    bias: added to the scores, float32.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if not _takes_kernel(stacked, mesh):
    return _by_xla(stacked, bias)
  if mesh.empty or mesh.size == 1:
    return kernel_attention(stacked, bias)
  names = "batch", "tokens", "rows", "heads", "head_dim"
  spec = divisible_spec(partition_spec(*names), stacked.shape, dict(mesh.shape))
  return jax.shard_map(
    kernel_attention,
    in_specs=(spec, PartitionSpec(None, spec[3])),
    out_specs=PartitionSpec(*spec[:2], *spec[3:]),
    # Pallas calls do not say over which axes their results vary.
    check_vma=False,
  )(stacked, bias)


def _takes_kernel(stacked: StackedHeads, mesh: AbstractMesh) -> bool:
  """Whether the kernel runs here; it wants all tokens on one device."""
  _, length, _, num_heads, head_dim = stacked.shape
  chosen = choose_kernel(
    "auto",
    num_tokens=length,
    num_heads=num_heads,
    head_dim=head_dim,
    dtype=stacked.dtype,
    mesh=mesh,
  )
  return chosen == "single_block" and num_shards("tokens") == 1


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def kernel_attention(
  stacked: StackedHeads, bias: _Bias, is_interpreted: bool = False
) -> _Attended:
  """The same by the kernel, for one TPU core; the gradient is XLA's.

  Args:
    stacked: queries, keys and values.
    bias: added to the scores, float32.
    is_interpreted: True runs the kernel as JAX operations on any device.
  """
  from ddit_jax.models.single_block import single_block_with_bias

  return single_block_with_bias(stacked, bias, is_interpreted=is_interpreted)


def _keep(stacked, bias, is_interpreted):
  return kernel_attention(stacked, bias, is_interpreted), (stacked, bias)


def _pull(is_interpreted, kept, gradient):
  del is_interpreted
  return jax.vjp(_by_xla, *kept)[1](gradient)


kernel_attention.defvjp(_keep, _pull)


def _by_xla(stacked: StackedHeads, bias: _Bias) -> _Attended:
  query, key, value = (stacked[:, :, row] for row in range(3))
  return jax.nn.dot_product_attention(
    query, key, value, bias, scale=1.0, implementation="xla"
  )
