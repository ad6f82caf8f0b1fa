"""The text loss: weighted cross-entropy of masked tokens (paper eq. 8)."""

from collections.abc import Callable
from typing import Literal

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ddit_jax.diffusion.masked_diffusion import (
  MaskedDiffusion,
  log_probabilities,
)
from ddit_jax.prng import key_for

LossNormalization = Literal["all_positions", "target_positions"]


@flax.struct.dataclass
class MaskedTexts:
  """Corrupted examples of the text loss, ready for the network.

  Attributes:
    latents: clean latents, seen at sigma 0; None shows the null image.
    tokens: partly masked text, the network's input.
    clean_tokens: the targets.
    is_masked: True where a token was hidden; only these count.
    t: text time of each example.
    weight: each example's factor; over the global batch the weighted sum of
      negative log likelihoods is the loss.
    has_image: False where there is only text; None if all have an image.
  """

  latents: Float[Array, "*lead height width channels"] | None
  tokens: Int[Array, "*lead length"]
  clean_tokens: Int[Array, "*lead length"]
  is_masked: Bool[Array, "*lead length"]
  t: Float[Array, "*lead"]
  weight: Float[Array, "*lead"]
  has_image: Bool[Array, "*lead"] | None = None


def mask_texts(
  latents: Float[Array, "batch height width channels"] | None,
  tokens: Int[Array, "batch length"],
  loss_mask: Bool[Array, "batch length"],
  root: jax.Array,
  step: jax.Array,
  *,
  masked_diffusion: MaskedDiffusion,
  loss_normalization: LossNormalization,
  mask_id: int,
  has_image: Bool[Array, " batch"] | None = None,
) -> MaskedTexts:
  """Draws times and masks for a global batch; see `loss_normalizer`."""
  size = tokens.shape[0]
  t = masked_diffusion.training_times(key_for(root, "text_time", step), size)
  noisy, is_masked, weight = masked_diffusion.mask_tokens(
    key_for(root, "text_mask", step), tokens, loss_mask, t, mask_id=mask_id
  )
  return MaskedTexts(
    latents=latents,
    tokens=noisy,
    clean_tokens=tokens,
    is_masked=is_masked,
    t=t,
    weight=weight / loss_normalizer(loss_mask, loss_normalization),
    has_image=has_image,
  )


def text_loss(
  log_likelihoods: Float[Array, " batch"], texts: MaskedTexts
) -> Float[Array, ""]:
  """The text loss, float32, of each text's summed `log_likelihoods`."""
  return -(texts.weight * log_likelihoods).sum()


def loss_normalizer(
  loss_mask: Bool[Array, "batch length"],
  loss_normalization: LossNormalization,
) -> Float[Array, ""]:
  """The divisor of a global batch's summed text loss.

  Args:
    loss_mask: True where a token may be masked.
    loss_normalization: "all_positions" counts every position, padding and
      questions too (the released code); "target_positions" counts those that
      may be masked.
  """
  if loss_normalization == "all_positions":
    return jnp.float32(loss_mask.size)
  return jnp.maximum(loss_mask.sum(), 1).astype(jnp.float32)


def token_log_likelihoods(
  logits: Float[Array, "batch length vocab"],
  examples: MaskedTexts,
  mask_id: int,
) -> Float[Array, "batch length"]:
  """Float32 log p(clean token) at each position, unweighted.

  Visible tokens are copied (SUBS), so they contribute exactly zero.
  """
  log_p = log_probabilities(logits, mask_id)
  clean = examples.clean_tokens[..., None]
  chosen = jnp.take_along_axis(log_p, clean, axis=-1)[..., 0]
  return jnp.where(examples.is_masked, chosen, 0.0)


def chunked_log_likelihoods(
  text_hidden: Float[Array, "batch length context_dim"],
  texts: MaskedTexts,
  *,
  mask_id: int,
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
    mask_id: the token id that stands for a masked token.
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
    return token_log_likelihoods(logits, seen, mask_id).sum(axis=-1)

  def add_chunk(total, part):
    zeros = jnp.zeros_like(total)
    is_any_masked = part[2].any()
    return total + jax.lax.cond(
      is_any_masked, read, lambda _: zeros, part
    ), None

  parts = tuple(map(split, (text_hidden, texts.clean_tokens, texts.is_masked)))
  start = jnp.zeros(texts.tokens.shape[0], jnp.float32)
  return jax.lax.scan(add_chunk, start, parts)[0]
