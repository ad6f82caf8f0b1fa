"""JAX's Pallas kernel for TPUs (splash attention) on sequences of any length.

The kernel works on blocks of a multiple of 128 tokens and never writes the
scores to memory. Sequences are padded to whole blocks here. Which keys a query
sees is said by segment ids: it sees the keys of its own segment.
"""

import math

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu import splash_attention as pallas
from jaxtyping import Array, Bool, Float

from ddit_jax.models.layers import pad_tokens

# Block sizes are multiples of the lanes of a TPU's vector registers; blocks of
# 1,280 tokens with heads of 64 features no longer fit the memory of a v5p core.
_LANES, _LARGEST_BLOCK = 128, 640

# The backward pass in one kernel runs 5 products per block where two kernels
# run 7, but writes the gradient of the queries once per block of keys. Adding
# up two such takes 3.4 ms on a v5p for 24 examples of 1,280 tokens, by its
# compiler's estimate, and the two products more take 1.5 ms.
_MOST_FUSED_BLOCKS = 1

# The features of 64 before the tokens, which fill the lanes: the products that
# precede the kernel are laid out so.
_LAYOUT = pallas.QKVLayout.SEQ_MINOR


def splash_attention(
  query: Float[Array, "batch queries heads head_dim"],
  key: Float[Array, "batch keys heads head_dim"],
  value: Float[Array, "batch keys heads head_dim"],
  *,
  key_mask: Bool[Array, "batch keys"] | None = None,
  checkpoint_name: str | None = None,
  is_interpreted: bool = False,
) -> Float[Array, "batch queries heads head_dim"]:
  """Softmax attention on one TPU core, scaled by 1 / sqrt(head_dim).

  Args:
    query: queries of all heads.
    key: keys of all heads.
    value: values of all heads.
    key_mask: True where a key may be attended to; None means everywhere.
    checkpoint_name: remat name of what the backward pass keeps: the result and
      the logarithms of the softmax's denominators.
    is_interpreted: True runs the kernel as JAX operations on any device.
  """
  (num_queries, num_heads), num_keys = query.shape[1:3], key.shape[1]
  query_block, key_block = block_size(num_queries), block_size(num_keys)
  padded_queries = query_block * math.ceil(num_queries / query_block)
  padded_keys = key_block * math.ceil(num_keys / key_block)
  kernel = pallas.make_splash_mha(
    pallas.MultiHeadMask(
      [pallas.FullMask((padded_queries, padded_keys))] * num_heads
    ),
    head_shards=1,
    q_seq_shards=1,
    block_sizes=_block_sizes(query_block, key_block, padded_keys),
    residual_checkpoint_name=checkpoint_name,
    interpret=is_interpreted,
  )
  segments = None
  if key_mask is not None or padded_keys > num_keys:
    if key_mask is None:
      key_mask = jnp.ones(key.shape[:2], bool)
    key_mask = pad_tokens(key_mask, padded_keys)
    # No query is in the segment of the keys that none may see. The padding's
    # queries see all others, so that no softmax is over nothing.
    segments = pallas.SegmentIds(
      q=jnp.zeros((len(query), padded_queries), jnp.int32),
      kv=jnp.where(key_mask, 0, 1),
    )
  attended = jax.vmap(kernel)(
    _heads_first(query * query.shape[-1] ** -0.5, padded_queries),
    _heads_first(key, padded_keys),
    _heads_first(value, padded_keys),
    segments,
  )
  return attended[:, :, :num_queries].swapaxes(1, 2)


def block_size(num_tokens: int) -> int:
  """The largest block that pads at most 1/16 more than the smallest would."""
  smallest = _LANES * math.ceil(num_tokens / _LANES)
  return max(
    block
    for block in range(_LANES, _LARGEST_BLOCK + 1, _LANES)
    if block * math.ceil(num_tokens / block) * 16 <= smallest * 17
  )


def _heads_first(
  tokens: Float[Array, "batch tokens heads head_dim"], num_tokens: int
) -> Float[Array, "batch heads padded_tokens head_dim"]:
  return pad_tokens(tokens, num_tokens).swapaxes(1, 2)


def _block_sizes(
  query_block: int, key_block: int, padded_keys: int
) -> pallas.BlockSizes:
  is_fused = padded_keys // key_block <= _MOST_FUSED_BLOCKS
  return pallas.BlockSizes(
    block_q=query_block,
    block_kv=key_block,
    block_q_dkv=query_block,
    block_kv_dkv=key_block,
    block_q_dq=None if is_fused else query_block,
    block_kv_dq=None if is_fused else key_block,
    use_fused_bwd_kernel=is_fused,
    q_layout=_LAYOUT,
    k_layout=_LAYOUT,
    v_layout=_LAYOUT,
  )
