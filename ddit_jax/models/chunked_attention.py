"""Attention of a few heads at a time, so that a CPU's caches hold their scores.

XLA writes the scores of all heads to memory and reads them back in each pass of
the softmax and of its gradient, which takes a CPU longer than the products.
"""

import os

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

# Scores that a core's own cache holds, beside what makes them.
_BYTES_OF_CORE = 1 << 20

# `_`: queries and keys may differ in number.
_Heads = Float[Array, "batch _ heads head_dim"]


def chunked_attention(
  query: _Heads,
  key: _Heads,
  value: _Heads,
  *,
  key_mask: Bool[Array, "batch keys"] | None = None,
) -> _Heads:
  """Softmax attention, scaled by 1 / sqrt(head_dim).

  Scores and softmax are in float32. The backward pass computes the scores of
  each chunk again.

  Args:
    query: queries of all heads.
    key: keys of all heads.
    value: values of all heads.
    key_mask: True where a key may be attended to; None means everywhere.
  """
  batch, num_queries, num_heads, head_dim = query.shape
  num_keys, num_rows = key.shape[1], batch * num_heads
  rows = tuple(
    x.transpose(0, 2, 1, 3).reshape(num_rows, -1, head_dim)
    for x in (query, key, value)
  )
  mask = None
  if key_mask is not None:
    mask = jnp.repeat(key_mask[:, None], num_heads, axis=0)
  size = _chunk_size(num_rows, num_queries * num_keys)
  if size == num_rows:
    attended = _attend((*rows, mask))
  else:
    chunks = jax.tree.map(
      lambda x: x.reshape(-1, size, *x.shape[1:]), (*rows, mask)
    )
    attended = jax.lax.map(jax.checkpoint(_attend), chunks)
  attended = attended.reshape(batch, num_heads, num_queries, head_dim)
  return attended.transpose(0, 2, 1, 3)


def _attend(rows):
  """Of (queries, keys, values, mask or None), one head of an example a row."""
  query, key, value, mask = rows
  query = query * query.shape[-1] ** -0.5
  scores = jnp.einsum(
    "rqd,rkd->rqk", query, key, preferred_element_type=jnp.float32
  )
  if mask is not None:
    scores = jnp.where(mask, scores, jnp.finfo(scores.dtype).min)
  weights = jax.nn.softmax(scores).astype(value.dtype)
  return jnp.einsum("rqk,rkd->rqd", weights, value)


def _chunk_size(num_rows: int, num_scores: int) -> int:
  """Rows whose scores fit the cores' caches, at least one a core.

  Args:
    num_rows: heads of all examples; the result divides them.
    num_scores: of a row.
  """
  cores = os.cpu_count() or 1
  most = max(cores, cores * _BYTES_OF_CORE // (4 * num_scores))
  return max(n for n in range(1, min(most, num_rows) + 1) if num_rows % n == 0)
