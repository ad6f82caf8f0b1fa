"""The dual loss L = L_image + lambda_text * L_text (paper eq. 10)."""

import dataclasses
from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp

from ddit_jax.batch import DualBatch
from ddit_jax.diffusion.flow_path import FlowPath
from ddit_jax.diffusion.mask_process import MaskProcess
from ddit_jax.losses import image_flow, text_mask
from ddit_jax.random_streams import key_for

# predict(params, latents, tokens, sigma[, has_image]) -> object with .velocity
# and .logits
Predict = Callable


@flax.struct.dataclass
class CorruptedBatch:
  """A global batch after all random draws; leading axes may be split."""

  images: image_flow.NoisyImages
  texts: text_mask.MaskedTexts


@dataclasses.dataclass(frozen=True, kw_only=True)
class DualLoss:
  """Draws the corruption, runs the network on both streams, adds the terms.

  Attributes:
    path: the image diffusion.
    process: the text diffusion.
    text_weight: lambda_text.
    text_divisor: see `text_mask.batch_divisor`.
    drop_probability: share of captions replaced by the null caption.
    is_merged: True runs both streams as one batch through the network, which
      needs equal latent shapes and text lengths.
  """

  path: FlowPath
  process: MaskProcess
  text_weight: float
  text_divisor: str = "all_positions"
  drop_probability: float = 0.1
  is_merged: bool = False

  def __post_init__(self):
    if not 0 <= self.drop_probability <= 1:
      raise ValueError(
        f"drop_probability must lie in [0, 1], got {self.drop_probability}"
      )
    if self.text_weight < 0:
      raise ValueError(f"text_weight is negative: {self.text_weight}")
    if self.text_divisor not in text_mask.DIVISORS:
      raise ValueError(
        f"text_divisor must be one of {text_mask.DIVISORS}, got "
        f"{self.text_divisor!r}"
      )

  def corrupt(
    self,
    batch: DualBatch,
    root: jax.Array,
    step: jax.Array,
    *,
    encode: Callable[[jax.Array, jax.Array], jax.Array],
    null_tokens: jax.Array,
  ) -> CorruptedBatch:
    """All random draws of one step, over the global batch of both streams.

    Args:
      batch: pixels and tokens of both streams.
      root: key of the run's randomness.
      step: number of the step.
      encode: (pixels 0..255, key) to latents.
      null_tokens: the empty caption, [length].
    """
    images = image_flow.corrupt(
      encode(
        batch.text_to_image.images, key_for(root, "image_posterior", step)
      ),
      batch.text_to_image.tokens,
      root,
      step,
      path=self.path,
      null_tokens=null_tokens,
      drop_probability=self.drop_probability,
    )
    texts = text_mask.corrupt(
      encode(
        batch.image_to_text.images, key_for(root, "condition_posterior", step)
      ),
      batch.image_to_text.tokens,
      batch.image_to_text.is_target,
      root,
      step,
      process=self.process,
      divisor=self.text_divisor,
      has_image=batch.image_to_text.has_image,
    )
    return CorruptedBatch(images=images, texts=texts)

  def terms(self, predict: Predict, params, corrupted: CorruptedBatch):
    """(image loss, text loss): float32 sums of weighted examples.

    Sums over the parts of a split batch add up to the global batch's losses.
    """
    images, texts = corrupted.images, corrupted.texts
    if self.is_merged:
      velocity, logits = _merged_pass(predict, params, images, texts)
    else:
      velocity = predict(
        params, images.latents, images.tokens, images.sigma
      ).velocity
      clean_time = jnp.zeros(texts.tokens.shape[0])
      inputs = texts.latents, texts.tokens, clean_time
      if texts.has_image is not None:
        inputs += (texts.has_image,)
      logits = predict(params, *inputs).logits
    image_loss = image_flow.weighted_sum(velocity, images)
    return image_loss, text_mask.weighted_sum(logits, texts, self.process)

  def __call__(self, predict: Predict, params, corrupted: CorruptedBatch):
    """(total loss, {"loss/total", "loss/image", "loss/text"})."""
    image_loss, text_loss = self.terms(predict, params, corrupted)
    total = image_loss + self.text_weight * text_loss
    return total, {
      "loss/total": total,
      "loss/image": image_loss,
      "loss/text": text_loss,
    }


def _merged_pass(predict, params, images, texts):
  if images.latents.shape[1:] != texts.latents.shape[1:] or (
    images.tokens.shape[1:] != texts.tokens.shape[1:]
  ):
    raise ValueError(
      "merging both streams needs equal shapes, got images "
      f"{images.latents.shape[1:]} and {texts.latents.shape[1:]}, texts "
      f"{images.tokens.shape[1:]} and {texts.tokens.shape[1:]}: set "
      "loss.is_merged=False"
    )
  size = images.tokens.shape[0]
  inputs = [
    (images.latents, texts.latents),
    (images.tokens, texts.tokens),
    (images.sigma, jnp.zeros(texts.tokens.shape[0])),
  ]
  if texts.has_image is not None:
    inputs.append((jnp.ones(size, bool), texts.has_image))
  prediction = predict(params, *map(jnp.concatenate, inputs))
  return prediction.velocity[:size], prediction.logits[size:]
