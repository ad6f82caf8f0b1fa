"""A Pallas kernel for TPUs: attention of sequences short enough for one block.

All scores of a head fit the memory of a core, so they are never written to the
device's memory, the softmax needs no running sums, and the backward pass needs
nothing but queries, keys and values. Heads stay side by side in the features:
nothing is transposed.
"""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Bool, Float

from ddit_jax.models.layers import pad_tokens

# Features of a block are a multiple of the lanes of a TPU's vector registers,
# tokens one of the sublanes of bfloat16.
_LANES, _SUBLANES = 128, 16
# Added to the scores of keys that none may see; exp of it is zero.
_HIDDEN = -1e30

_Heads = Float[Array, "batch tokens heads head_dim"]
_Rows = Float[Array, "batch tokens features"]
_Bias = Float[Array, "batch 1 tokens"]


def single_block_attention(
  query: _Heads,
  key: _Heads,
  value: _Heads,
  *,
  key_mask: Bool[Array, "batch tokens"] | None = None,
  is_interpreted: bool = False,
) -> _Heads:
  """Softmax attention on one TPU core, scaled by 1 / sqrt(head_dim).

  Scores and softmax are in float32, products in the dtype of the queries.

  Args:
    query: queries of all heads.
    key: keys of all heads, as many as queries.
    value: values of all heads.
    key_mask: True where a key may be attended to; None means everywhere.
    is_interpreted: True runs the kernel as JAX operations on any device.
  """
  batch, num_tokens, num_heads, _ = query.shape
  padded = num_tokens + -num_tokens % _SUBLANES
  if key_mask is None:
    key_mask = jnp.ones((batch, num_tokens), bool)
  bias = jnp.where(pad_tokens(key_mask, padded), 0.0, _HIDDEN)[:, None]
  rows = (
    pad_tokens(array.reshape(batch, num_tokens, -1), padded)
    for array in (query, key, value)
  )
  attended = _attend(*rows, bias, num_heads, is_interpreted)
  return attended[:, :num_tokens].reshape(query.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _attend(
  query: _Rows,
  key: _Rows,
  value: _Rows,
  bias: _Bias,
  num_heads: int,
  is_interpreted: bool,
) -> _Rows:
  run = _kernel(_forward, query, num_heads, is_interpreted)
  return run(query, key, value, bias)


def _keep(query, key, value, bias, num_heads, is_interpreted):
  attended = _attend(query, key, value, bias, num_heads, is_interpreted)
  return attended, (query, key, value, bias)


def _pull(num_heads, is_interpreted, kept, gradient):
  query, key, value, bias = kept
  run = _kernel(_backward, query, num_heads, is_interpreted, num_results=3)
  return *run(query, key, value, bias, gradient), None


_attend.defvjp(_keep, _pull)


def _kernel(body, like: _Rows, num_heads: int, is_interpreted, num_results=1):
  """A call of `body` for each example and as many heads as fill the lanes."""
  batch, num_tokens, features = like.shape
  head_dim = features // num_heads
  width = _block_features(num_heads, head_dim)
  rows = pl.BlockSpec((1, num_tokens, width), lambda b, h: (b, 0, h))
  bias = pl.BlockSpec((1, 1, num_tokens), lambda b, h: (b, 0, 0))
  results = [jax.ShapeDtypeStruct(like.shape, like.dtype)] * num_results
  is_one = num_results == 1
  return pl.pallas_call(
    functools.partial(body, head_dim=head_dim),
    grid=(batch, features // width),
    in_specs=[rows] * 3 + [bias] + [rows] * (not is_one),
    out_specs=rows if is_one else [rows] * num_results,
    out_shape=results[0] if is_one else results,
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=("parallel", "parallel")
    ),
    interpret=is_interpreted,
    name=f"single_block_attention{body.__name__}",
  )


def _block_features(num_heads: int, head_dim: int) -> int:
  """The fewest whole heads that fill the lanes, or all of them."""
  for heads in range(1, num_heads):
    if num_heads % heads == 0 and heads * head_dim % _LANES == 0:
      return heads * head_dim
  return num_heads * head_dim


def _forward(query, key, value, bias, out, *, head_dim: int):
  for head in _heads(query, head_dim):
    weights, total = _softmax(query[head], key[head], bias[0], head_dim)
    attended = _product(weights.astype(value.dtype), value[head], (1, 0))
    out[head] = (attended / total).astype(out.dtype)


def _backward(
  query, key, value, bias, gradient, d_query, d_key, d_value, *, head_dim: int
):
  dtype = query.dtype
  for head in _heads(query, head_dim):
    weights, total = _softmax(query[head], key[head], bias[0], head_dim)
    weights = weights / total
    d_out = gradient[head]
    d_value[head] = _product(weights.astype(dtype), d_out, (0, 0)).astype(dtype)
    d_weights = _product(d_out, value[head], (1, 1))
    mean = jnp.sum(weights * d_weights, axis=-1, keepdims=True)
    d_scores = weights * (d_weights - mean) * head_dim**-0.5
    d_scores = d_scores.astype(dtype)
    d_query[head] = _product(d_scores, key[head], (1, 0)).astype(dtype)
    d_key[head] = _product(d_scores, query[head], (0, 0)).astype(dtype)


def _heads(rows, head_dim: int):
  """Indices of a block's heads."""
  for first in range(0, rows.shape[-1], head_dim):
    yield 0, slice(None), slice(first, first + head_dim)


def _softmax(query, key, bias, head_dim: int):
  """(exp of scores minus their largest, the sum of these), float32."""
  scores = _product(query, key, (1, 1)) * head_dim**-0.5 + bias
  weights = jnp.exp(scores - scores.max(axis=-1, keepdims=True))
  return weights, weights.sum(axis=-1, keepdims=True)


def _product(left, right, contracted: tuple[int, int]):
  """The float32 product over one axis of each matrix."""
  axes = tuple((axis,) for axis in contracted)
  return jax.lax.dot_general(
    left, right, (axes, ((), ())), preferred_element_type=jnp.float32
  )
