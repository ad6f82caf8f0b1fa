"""The text loss: weighted cross-entropy of masked tokens (paper eq. 9)."""

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ddit_jax.diffusion.mask_process import MaskProcess
from ddit_jax.random_streams import key_for

DIVISORS = ("all_positions", "target_positions")


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


def corrupt(
  latents: Float[Array, "batch height width channels"] | None,
  tokens: Int[Array, "batch length"],
  is_target: Bool[Array, "batch length"],
  root: jax.Array,
  step: jax.Array,
  *,
  process: MaskProcess,
  divisor: str,
  has_image: Bool[Array, " batch"] | None = None,
) -> MaskedTexts:
  """Draws times and masks for a global batch; see `batch_divisor`."""
  size = tokens.shape[0]
  t = process.training_times(key_for(root, "text_time", step), size)
  noisy, is_masked, weight = process.mask_tokens(
    key_for(root, "text_mask", step), tokens, is_target, t
  )
  return MaskedTexts(
    latents=latents,
    tokens=noisy,
    clean_tokens=tokens,
    is_masked=is_masked,
    t=t,
    weight=weight / batch_divisor(is_target, divisor),
    has_image=has_image,
  )


def weighted_sum(
  logits: Float[Array, "batch length vocab"],
  texts: MaskedTexts,
  process: MaskProcess,
) -> Float[Array, ""]:
  """The text loss of the predicted logits, float32."""
  return (texts.weight * negative_log_likelihoods(logits, texts, process)).sum()


def batch_divisor(
  is_target: Bool[Array, "batch length"], divisor: str
) -> Float[Array, ""]:
  """By what the summed text loss of a global batch is divided.

  Args:
    is_target: True where a token may be masked.
    divisor: "all_positions" counts every position, padding and questions
      too (the released code); "target_positions" those that may be masked.

  Raises:
    ValueError: no such divisor.
  """
  if divisor not in DIVISORS:
    raise ValueError(f"divisor must be one of {DIVISORS}, got {divisor!r}")
  if divisor == "all_positions":
    return jnp.float32(is_target.size)
  return jnp.maximum(is_target.sum(), 1).astype(jnp.float32)


def negative_log_likelihoods(
  logits: Float[Array, "batch length vocab"],
  examples: MaskedTexts,
  process: MaskProcess,
) -> Float[Array, " batch"]:
  """Float32 sum over masked positions of -log p(clean token), unweighted."""
  return -token_log_likelihoods(logits, examples, process).sum(axis=-1)


def token_log_likelihoods(
  logits: Float[Array, "batch length vocab"],
  examples: MaskedTexts,
  process: MaskProcess,
) -> Float[Array, "batch length"]:
  """Float32 log p(clean token) at each position, unweighted.

  Visible tokens are copied (SUBS), so they contribute exactly zero.
  """
  log_p = process.log_probabilities(logits)
  clean = examples.clean_tokens[..., None]
  chosen = jnp.take_along_axis(log_p, clean, axis=-1)[..., 0]
  return jnp.where(examples.is_masked, chosen, 0.0)
