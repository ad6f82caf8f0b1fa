"""Attention over tokens that are split along a mesh axis.

Both functions run inside `jax.shard_map`. `all_to_all_attention` trades the
split of the tokens for one of the heads, so that any kernel can follow
(DeepSpeed-Ulysses, Jacobs et al. 2023). `ring_attention` passes keys and values
round the devices, for numbers of heads that do not split (Liu et al. 2023).
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float

_TokenHeads = Float[Array, "batch tokens heads head_dim"]
_Mask = Bool[Array, "batch tokens"] | None

# Far below any score, and finite: a block of keys may be hidden as a whole.
_HIDDEN = -1e30


def all_to_all_attention(
  query: _TokenHeads,
  key: _TokenHeads,
  value: _TokenHeads,
  key_mask: _Mask,
  *,
  axis: str,
  attend: Callable[[_TokenHeads, _TokenHeads, _TokenHeads, _Mask], _TokenHeads],
) -> _TokenHeads:
  """Attention of all tokens, for a part of the heads on each device.

  Args:
    query: of this device's tokens, all heads.
    key: as `query`.
    value: as `query`.
    key_mask: True where a key may be attended to.
    axis: the mesh axis; its size divides the heads.
    attend: attention of (query, key, value, key_mask).
  """
  swap = functools.partial(jax.lax.all_to_all, axis_name=axis, tiled=True)
  stacked = jnp.stack([query, key, value])
  query, key, value = swap(stacked, split_axis=3, concat_axis=2)
  if key_mask is not None:
    key_mask = jax.lax.all_gather(key_mask, axis, axis=1, tiled=True)
  attended = attend(query, key, value, key_mask)
  return swap(attended, split_axis=1, concat_axis=2)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def ring_attention(
  query: _TokenHeads,
  key: _TokenHeads,
  value: _TokenHeads,
  key_mask: _Mask,
  axis: str,
  remat_name: str,
) -> _TokenHeads:
  """Attention of this device's queries to the keys of all devices of `axis`.

  Keys and values travel round the ring while the softmax is accumulated, in
  float32; the backward pass sends them round again, with their gradients.

  Args:
    query: of this device's tokens.
    key: as `query`.
    value: as `query`.
    key_mask: True where a key may be attended to; each example needs one on
      some device.
    axis: the mesh axis.
    remat_name: of what the backward pass keeps.
  """
  return _forward(query, key, value, key_mask, axis, remat_name)[0]


def _forward(query, key, value, key_mask, axis: str, remat_name: str):
  batch, tokens, heads, head_dim = query.shape

  def add(running, block):
    key, value, key_mask = block
    result, largest, total = running
    scores = _scores(query, key, key_mask)
    new_largest = jnp.maximum(largest, scores.max(axis=-1))
    weights = jnp.exp(scores - new_largest[..., None])
    shrink = jnp.exp(largest - new_largest)
    total = total * shrink + weights.sum(axis=-1)
    result = result * shrink[..., None] + _product(
      "bhqk,bkhd->bhqd", weights.astype(value.dtype), value
    )
    return result, new_largest, total

  zeros = jnp.zeros((batch, heads, tokens))
  start = jnp.zeros((batch, heads, tokens, head_dim)), zeros + _HIDDEN, zeros
  block = key, value, key_mask

  def turn(carry, _):
    running, block = carry
    # Under way while this block is used.
    following = _pass_on(block, axis)
    return (add(running, block), following), None

  turns = jax.lax.axis_size(axis) - 1
  (running, block), _ = jax.lax.scan(turn, (start, block), length=turns)
  result, largest, total = add(running, block)
  result = (result / total[..., None]).swapaxes(1, 2).astype(query.dtype)
  log_total = largest + jnp.log(total)
  result, log_total = (
    checkpoint_name(array, remat_name) for array in (result, log_total)
  )
  return result, (query, key, value, key_mask, result, log_total)


def _backward(axis: str, remat_name: str, kept, gradient):
  """The gradients of one softmax row need its result and denominator only."""
  del remat_name
  query, key, value, key_mask, result, log_total = kept
  along = _product("bqhd,bqhd->bhq", gradient, result)

  def turn(carry, _):
    query_gradient, (key, value, key_mask, key_gradient, value_gradient) = carry
    scores = _scores(query, key, key_mask)
    weights = jnp.exp(scores - log_total[..., None])
    value_gradient += _product(
      "bhqk,bqhd->bkhd", weights.astype(gradient.dtype), gradient
    )
    pulled = _product("bqhd,bkhd->bhqk", gradient, value)
    pulled = weights * (pulled - along[..., None]) * _scale(query)
    pulled = pulled.astype(query.dtype)
    query_gradient += _product("bhqk,bkhd->bqhd", pulled, key)
    key_gradient += _product("bhqk,bqhd->bkhd", pulled, query)
    block = key, value, key_mask, key_gradient, value_gradient
    return (query_gradient, _pass_on(block, axis)), None

  zeros = jnp.zeros(query.shape), jnp.zeros(key.shape), jnp.zeros(value.shape)
  start = zeros[0], (key, value, key_mask, *zeros[1:])
  # After as many turns as devices the blocks are home again.
  (query_gradient, block), _ = jax.lax.scan(
    turn, start, length=jax.lax.axis_size(axis)
  )
  gradients = (query_gradient, *block[3:])
  return (
    *(g.astype(x.dtype) for g, x in zip(gradients, kept[:3], strict=True)),
    None,
  )


ring_attention.defvjp(_forward, _backward)


def _scale(query: _TokenHeads) -> float:
  return query.shape[-1] ** -0.5


def _scores(
  query: _TokenHeads, key: Float[Array, "batch keys heads head_dim"], key_mask
) -> Float[Array, "batch heads tokens keys"]:
  scores = _product("bqhd,bkhd->bhqk", query, key) * _scale(query)
  if key_mask is None:
    return scores
  return jnp.where(key_mask[:, None, None, :], scores, _HIDDEN)


def _product(subscripts: str, left, right) -> Float[Array, "..."]:
  """A product of the arrays' own precision, accumulated in float32."""
  return jnp.einsum(subscripts, left, right, preferred_element_type=jnp.float32)


def _pass_on(block, axis: str):
  """Gives every device of the ring what its neighbour had."""
  size = jax.lax.axis_size(axis)
  to_next = [(i, (i + 1) % size) for i in range(size)]
  return jax.tree.map(lambda x: jax.lax.ppermute(x, axis, to_next), block)
