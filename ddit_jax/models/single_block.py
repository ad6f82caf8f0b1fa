"""A Pallas kernel for TPUs: attention of sequences short enough for one block.

All scores of a head fit the memory of a core, so they are never written to the
device's memory, the softmax needs no running sums, and the backward pass needs
nothing but queries, keys and values. Heads stay side by side in the features:
nothing is transposed.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Bool, Float

from ddit_jax.models.layers import pad_tokens

# Features of a block are a multiple of the lanes of a TPU's vector registers,
# tokens one of the sublanes of bfloat16.
_LANES, _SUBLANES = 128, 16
# Features of the queries of a call, in all, that are worth starting one.
_BLOCK_VALUES = 2**15
# Added to the scores of keys that none may see; exp of it is zero.
_HIDDEN = -1e30

# `_`: the streams may differ in length.
_StackedHeads = Float[Array, "batch _ 3 heads head_dim"]
_Heads = Float[Array, "batch _ heads head_dim"]
_StackedRows = Float[Array, "batch 3 _ features"]
_Rows = Float[Array, "batch _ features"]
# Of the scores. Dimensions of one are broadcast; all but the last may be one.
_Bias = Float[Array, "#batch #heads #queries keys"]


def single_block_attention(
  streams: tuple[_StackedHeads, ...],
  *,
  key_mask: Bool[Array, "batch tokens"] | None = None,
  remat_name: str = "",
  is_interpreted: bool = False,
) -> tuple[_Heads, ...]:
  """Softmax attention on one TPU core, scaled by 1 / sqrt(head_dim).

  Every query attends to the keys of all streams. Scores and softmax are in
  float32, products in the dtype of the queries.

  Args:
    streams: queries, keys and values of all heads.
    key_mask: True where a key may be attended to, of the streams one after the
      other; None means everywhere.
    remat_name: of the results.
    is_interpreted: True runs the kernel as JAX operations on any device.

  Returns:
    What the queries of each stream take up.
  """
  lengths = [stream.shape[1] for stream in streams]
  padded = [num + -num % _SUBLANES for num in lengths]
  batch, _, _, num_heads, _ = streams[0].shape
  if key_mask is None:
    key_mask = jnp.ones((batch, sum(lengths)), bool)
  masks = jnp.split(key_mask, np.cumsum(lengths)[:-1], axis=1)
  masks = [pad_tokens(*pair) for pair in zip(masks, padded, strict=True)]
  bias = jnp.where(jnp.concatenate(masks, axis=1), 0.0, _HIDDEN)
  rows = tuple(map(_rows, streams, padded))
  bias = bias[:, None, None]
  results = _attend(rows, bias, num_heads, is_interpreted)
  results = checkpoint_name(results, remat_name)
  return tuple(
    one[:, : stream.shape[1]].reshape(batch, -1, *stream.shape[3:])
    for one, stream in zip(results, streams, strict=True)
  )


def single_block_with_bias(
  stream: _StackedHeads,
  bias: _Bias,
  *,
  is_interpreted: bool = False,
) -> _Heads:
  """Softmax attention on one TPU core, not scaled; it has no gradient.

  Args:
    stream: queries, keys and values of all heads.
    bias: added to the scores.
    is_interpreted: True runs the kernel as JAX operations on any device.
  """
  batch, num_tokens, _, num_heads, head_dim = stream.shape
  padding = -num_tokens % _SUBLANES
  widths = [(0, 0)] * 2 + [(0, padding)] * 2
  bias = jnp.pad(bias, widths, constant_values=_HIDDEN)
  rows = _rows(stream, num_tokens + padding)
  run = _kernel(
    *(_forward, (rows,), bias, [rows[:, 0]], num_heads, is_interpreted),
    scale=1.0,
  )
  (attended,) = run(rows, bias)
  return attended[:, :num_tokens].reshape(batch, -1, num_heads, head_dim)


def _rows(stream: _StackedHeads, num_tokens: int) -> _StackedRows:
  """Rows before tokens: as the product that made them lays them out."""
  rows = stream.reshape(*stream.shape[:3], -1)
  return pad_tokens(rows, num_tokens).swapaxes(1, 2)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _attend(
  streams: tuple[_StackedRows, ...],
  bias: _Bias,
  num_heads: int,
  is_interpreted: bool,
) -> tuple[_Rows, ...]:
  results = [one[:, 0] for one in streams]
  run = _kernel(_forward, streams, bias, results, num_heads, is_interpreted)
  return tuple(run(*streams, bias))


def _keep(streams, bias, num_heads, is_interpreted):
  return _attend(streams, bias, num_heads, is_interpreted), (streams, bias)


def _pull(num_heads, is_interpreted, kept, gradients):
  streams, bias = kept
  run = _kernel(
    *(_backward, (*streams, *gradients), bias, streams),
    *(num_heads, is_interpreted),
  )
  return tuple(run(*streams, *gradients, bias)), None


_attend.defvjp(_keep, _pull)


def _kernel(
  body,
  inputs,
  bias: _Bias,
  results,
  num_heads: int,
  is_interpreted: bool,
  scale: float | None = None,
):
  """A call of `body` for each example and a few heads."""
  batch, *_, features = inputs[0].shape
  head_dim = features // num_heads
  heads = _block_heads(num_heads, head_dim, bias.shape[-1])
  width = heads * head_dim

  def spec(array):
    rows = array.shape[1:-1]
    whole = (0,) * len(rows)
    return pl.BlockSpec((1, *rows, width), lambda b, h: (b, *whole, h))

  examples, bias_heads, *scores = bias.shape
  bias_spec = pl.BlockSpec(
    (1, min(heads, bias_heads), *scores),
    lambda b, h: (b * (examples > 1), h * (bias_heads > 1), 0, 0),
  )
  scale = head_dim**-0.5 if scale is None else scale
  return pl.pallas_call(
    functools.partial(body, head_dim=head_dim, scale=scale),
    grid=(batch, features // width),
    in_specs=[*map(spec, inputs), bias_spec],
    out_specs=[*map(spec, results)],
    out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in results],
    compiler_params=pltpu.CompilerParams(
      dimension_semantics=("parallel", "parallel")
    ),
    interpret=is_interpreted,
    name=f"single_block_attention{body.__name__}",
  )


def _block_heads(num_heads: int, head_dim: int, num_tokens: int) -> int:
  """Heads of a call: the fewest that fill the lanes, more of short sequences.

  All of them if none do.
  """
  fitting = [
    heads
    for heads in range(1, num_heads)
    if num_heads % heads == 0 and heads * head_dim % _LANES == 0
  ]
  small = [n for n in fitting if n * head_dim * num_tokens <= _BLOCK_VALUES]
  return max(small, default=min(fitting, default=num_heads))


def _forward(*arrays, head_dim: int, scale: float):
  num = len(arrays) // 2
  streams, bias, results = arrays[:num], arrays[num], arrays[num + 1 :]
  for i, head in _heads(streams[0], head_dim):
    query, key, value = (_joined(streams, row, head) for row in range(3))
    weights, total = _softmax(query, key, bias[0, i % bias.shape[1]], scale)
    attended = _product(weights.astype(value.dtype), value, (1, 0)) / total
    _split(attended, [one.at[0, :, head] for one in results])


def _backward(*arrays, head_dim: int, scale: float):
  num = len(arrays) // 3
  streams, gradients = arrays[:num], arrays[num : 2 * num]
  bias, results = arrays[2 * num], arrays[2 * num + 1 :]
  for i, head in _heads(streams[0], head_dim):
    query, key, value = (_joined(streams, row, head) for row in range(3))
    d_out = jnp.concatenate([one[0, :, head] for one in gradients])
    weights, total = _softmax(query, key, bias[0, i % bias.shape[1]], scale)
    weights = weights / total
    d_value = _product(weights.astype(query.dtype), d_out, (0, 0))
    d_weights = _product(d_out, value, (1, 1))
    mean = jnp.sum(weights * d_weights, axis=-1, keepdims=True)
    d_scores = weights * (d_weights - mean) * scale
    d_scores = d_scores.astype(query.dtype)
    d_query = _product(d_scores, key, (1, 0))
    d_key = _product(d_scores, query, (0, 0))
    for row, gradient in enumerate((d_query, d_key, d_value)):
      _split(gradient, [one.at[0, row, :, head] for one in results])


def _heads(rows, head_dim: int):
  """(number, features) of each of a block's heads."""
  for i, first in enumerate(range(0, rows.shape[-1], head_dim)):
    yield i, slice(first, first + head_dim)


def _joined(streams, row: int, head: slice):
  """Queries, keys or values of a head, of all streams."""
  return jnp.concatenate([one[0, row, :, head] for one in streams])


def _split(joined, parts):
  """Writes to each stream what is its own."""
  first = 0
  for part in parts:
    num_tokens = part.shape[0]
    part[...] = joined[first : first + num_tokens].astype(part.dtype)
    first += num_tokens


def _softmax(query, key, bias, scale: float):
  """(exp of scores minus their largest, the sum of these), float32."""
  scores = _product(query, key, (1, 1)) * scale + bias
  weights = jnp.exp(scores - scores.max(axis=-1, keepdims=True))
  return weights, weights.sum(axis=-1, keepdims=True)


def _product(left, right, contracted: tuple[int, int]):
  """The float32 product over one axis of each matrix."""
  axes = tuple((axis,) for axis in contracted)
  return jax.lax.dot_general(
    left, right, (axes, ((), ())), preferred_element_type=jnp.float32
  )
