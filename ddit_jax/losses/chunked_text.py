"""The text loss without all logits at once."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ddit_jax.diffusion.mask_process import MaskProcess
from ddit_jax.losses.text_mask import MaskedTexts, token_log_likelihoods


def chunked_log_likelihoods(
  text_hidden: Float[Array, "batch length width"],
  texts: MaskedTexts,
  *,
  process: MaskProcess,
  read_logits: Callable[[jax.Array], jax.Array],
  chunk: int,
) -> Float[Array, " batch"]:
  """Float32 sum over each text's masked positions of log p(clean token).

  Masked positions come first in every text, then a scan reads `chunk`
  positions of all texts at a time. A chunk in which no position is masked is
  skipped, and the backward pass computes a chunk's logits again, so float32
  logits exist for one chunk only.

  Args:
    text_hidden: what the text head reads.
    texts: the corrupted texts.
    process: the text diffusion.
    read_logits: the text head, [batch, chunk, width] to [batch, chunk, vocab].
    chunk: positions read at once.
  """
  length = texts.tokens.shape[1]
  num_chunks = -(-length // chunk)
  order = jnp.argsort(~texts.is_masked, axis=1, stable=True)

  def split(array):
    """[batch, length, ...] to [chunks, batch, chunk, ...], masked first."""
    index = order.reshape(order.shape + (1,) * (array.ndim - 2))
    array = jnp.take_along_axis(array, index, axis=1)
    missing = num_chunks * chunk - length
    padding = [(0, 0), (0, missing)] + [(0, 0)] * (array.ndim - 2)
    array = jnp.pad(array, padding)
    array = array.reshape(array.shape[0], num_chunks, chunk, *array.shape[2:])
    return array.swapaxes(0, 1)

  @jax.checkpoint
  def read(part):
    hidden, clean_tokens, is_masked = part
    seen = texts.replace(clean_tokens=clean_tokens, is_masked=is_masked)
    logits = read_logits(hidden)
    return token_log_likelihoods(logits, seen, process).sum(axis=-1)

  def add_chunk(total, part):
    zeros = jnp.zeros_like(total)
    is_any_masked = part[2].any()
    return total + jax.lax.cond(
      is_any_masked, read, lambda _: zeros, part
    ), None

  parts = tuple(map(split, (text_hidden, texts.clean_tokens, texts.is_masked)))
  start = jnp.zeros(texts.tokens.shape[0], jnp.float32)
  return jax.lax.scan(add_chunk, start, parts)[0]
