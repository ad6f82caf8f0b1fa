"""The dual loss L = L_image + lambda_text * L_text (paper eq. 10)."""

import dataclasses
from typing import Any, Protocol

import flax.struct
import jax
import jax.numpy as jnp

from ddit_jax.batch import DualBatch, ImageToTextBatch, TextToImageBatch
from ddit_jax.diffusion.flow_matching import FlowMatching
from ddit_jax.diffusion.masked_diffusion import MaskedDiffusion
from ddit_jax.losses import flow_matching, masked_diffusion
from ddit_jax.losses.masked_diffusion import chunked_log_likelihoods
from ddit_jax.losses.time_buckets import BUCKETED, Buckets, sort_into_buckets
from ddit_jax.prng import key_for


class Predictor(Protocol):
  """The network as the loss calls it."""

  def __call__(
    self, params, latents, text, sigma, *, has_image=None, is_text_clean=False
  ) -> Any:
    """An object with .velocity, .logits and .text_hidden.

    `is_text_clean` says that no token of the text is masked.
    """

  def text_logits(self, params, text_hidden: jax.Array) -> jax.Array:
    """Logits of some positions' `text_hidden`."""


class InputEncoder(Protocol):
  """What turns pictures and captions into the network's inputs."""

  def draw_latents(self, pictures: jax.Array, key: jax.Array) -> jax.Array:
    """Clean latents of `batch.Pictures`, drawn from their posterior."""

  def condition(self, tokens: jax.Array) -> jax.Array:
    """The text encoder's features of clean captions."""


@flax.struct.dataclass
class CorruptedBatch:
  """A global batch after all random draws; leading axes may be split.

  A stream that is off is None.
  """

  images: flow_matching.NoisyImages | None
  texts: masked_diffusion.MaskedTexts | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class DualLoss:
  """Draws the corruption, runs the network on both streams, adds the terms.

  Attributes:
    path: the image diffusion.
    process: the text diffusion.
    text_weight: lambda_text.
    loss_normalization: see `text_mask.loss_normalizer`.
    drop_probability: share of captions replaced by the null caption.
    is_merged: True runs both streams as one batch through the network, which
      needs equal latent shapes and text lengths.
    text_chunk: positions of each text whose float32 logits exist at once; 0
      means all.
  """

  path: FlowMatching
  process: MaskedDiffusion
  text_weight: float
  loss_normalization: str = "all_positions"
  drop_probability: float = 0.1
  is_merged: bool = False
  text_chunk: int = 0

  def __post_init__(self):
    if not 0 <= self.drop_probability <= 1:
      raise ValueError(
        f"drop_probability must lie in [0, 1], got {self.drop_probability}"
      )
    if self.text_weight < 0:
      raise ValueError(f"text_weight is negative: {self.text_weight}")
    if self.loss_normalization not in masked_diffusion.LOSS_NORMALIZATIONS:
      raise ValueError(
        "loss_normalization must be one of "
        f"{masked_diffusion.LOSS_NORMALIZATIONS}, got "
        f"{self.loss_normalization!r}"
      )
    if self.text_chunk < 0:
      raise ValueError(f"text_chunk is negative: {self.text_chunk}")

  def corrupt(
    self,
    batch: DualBatch,
    root: jax.Array,
    step: jax.Array,
    *,
    encoder: InputEncoder,
    null_tokens: jax.Array,
  ) -> CorruptedBatch:
    """All random draws of one step, over the global batch of both streams.

    Args:
      batch: pictures and tokens of the streams that are on.
      root: key of the run's randomness.
      step: number of the step.
      encoder: pictures to latents, captions to features.
      null_tokens: the empty caption, [length].
    """
    images = texts = None
    if batch.text_to_image is not None:
      images = self._noisy_images(
        batch.text_to_image, root, step, encoder, null_tokens
      )
    if batch.image_to_text is not None:
      texts = self._masked_texts(batch.image_to_text, root, step, encoder)
    return CorruptedBatch(images=images, texts=texts)

  def losses(
    self, predictor: Predictor, params, corrupted: CorruptedBatch
  ) -> tuple[dict[str, jax.Array], dict[str, Buckets]]:
    """Each stream's loss, and losses by time.

    Args:
      predictor: the network.
      params: its parameters.
      corrupted: a global batch, or a part of one: sums over the parts add up
        to the global batch's.

    Returns:
      {"image": ..., "text": ...} of the streams that are on, before `weights`;
      and errors in buckets of sigma and of text time.
    """
    images, texts = corrupted.images, corrupted.texts
    if self.is_merged and None not in (images, texts):
      velocity, seen = _merged_pass(predictor, params, images, texts)
    else:
      velocity, seen = _separate_passes(predictor, params, images, texts)
    losses, buckets = {}, {}
    if images is not None:
      errors = flow_matching.squared_errors(velocity, images.velocity)
      losses["image"] = (images.weight * errors).sum()
      buckets[f"{BUCKETED}sigma"] = sort_into_buckets(errors, images.sigma)
    if texts is not None:
      likelihoods = self._log_likelihoods(predictor, params, seen, texts)
      losses["text"] = -(texts.weight * likelihoods).sum()
      num_masked = texts.is_masked.sum(axis=-1)
      buckets[f"{BUCKETED}text_time"] = sort_into_buckets(
        -likelihoods, texts.t, counts=num_masked
      )
    return losses, buckets

  @property
  def weights(self) -> dict[str, float]:
    """By what each stream's loss enters the total (paper eq. 10)."""
    return {"image": 1.0, "text": self.text_weight}

  def total(self, losses: dict[str, jax.Array]) -> jax.Array:
    """The weighted sum of the streams that are on."""
    return sum(self.weights[name] * loss for name, loss in losses.items())

  def _noisy_images(
    self, batch: TextToImageBatch, root, step, encoder, null_tokens
  ) -> flow_matching.NoisyImages:
    key = key_for(root, "image_posterior", step)
    text, null_text = batch.tokens, jnp.asarray(null_tokens)
    if batch.features is not None:
      text = batch.features
      null_text = encoder.condition(null_text[None])[0].astype(text.dtype)
    return flow_matching.corrupt(
      encoder.draw_latents(batch.images, key),
      text,
      root,
      step,
      path=self.path,
      null_text=null_text,
      drop_probability=self.drop_probability,
    )

  def _masked_texts(
    self, batch: ImageToTextBatch, root, step, encoder
  ) -> masked_diffusion.MaskedTexts:
    latents = None
    if batch.images is not None:
      key = key_for(root, "condition_posterior", step)
      latents = encoder.draw_latents(batch.images, key)
    return masked_diffusion.corrupt(
      latents,
      batch.tokens,
      batch.loss_mask,
      root,
      step,
      process=self.process,
      divisor=self.loss_normalization,
      has_image=batch.has_image,
    )

  def _log_likelihoods(self, predictor, params, seen, texts) -> jax.Array:
    """Float32 sum over each text's masked positions of log p, [batch]."""
    if not self.text_chunk:
      logits = seen["logits"]
      return -masked_diffusion.negative_log_likelihoods(
        logits, texts, self.process
      )

    def read_logits(hidden):
      return predictor.text_logits(params, hidden)

    return chunked_log_likelihoods(
      seen["text_hidden"],
      texts,
      process=self.process,
      read_logits=read_logits,
      chunk=self.text_chunk,
    )


# What the text loss reads of a prediction.
_TEXT_OUTPUTS = ("logits", "text_hidden")


def _text_outputs(prediction, start: int = 0) -> dict[str, jax.Array]:
  found = {name: getattr(prediction, name, None) for name in _TEXT_OUTPUTS}
  return {k: v[start:] for k, v in found.items() if v is not None}


def _separate_passes(predictor, params, images, texts):
  """(velocity, the text's outputs); None for a stream that is off."""
  velocity = seen = None
  if images is not None:
    velocity = predictor(
      params, images.latents, images.text, images.sigma, is_text_clean=True
    ).velocity
  if texts is not None:
    clean_time = jnp.zeros(texts.tokens.shape[0])
    seen = _text_outputs(
      predictor(
        params,
        texts.latents,
        texts.tokens,
        clean_time,
        has_image=texts.has_image,
      )
    )
  return velocity, seen


def _merged_pass(predictor, params, images, texts):
  """As `_separate_passes`, with one batch through the network."""
  _check_can_merge(images, texts)
  size = images.text.shape[0]
  has_image = None
  if texts.has_image is not None:
    has_image = jnp.concatenate([jnp.ones(size, bool), texts.has_image])
  pairs = [
    (images.latents, texts.latents),
    (images.text, texts.tokens),
    (images.sigma, jnp.zeros(texts.tokens.shape[0])),
  ]
  prediction = predictor(
    params, *map(jnp.concatenate, pairs), has_image=has_image
  )
  return prediction.velocity[:size], _text_outputs(prediction, start=size)


def _check_can_merge(images, texts) -> None:
  latents = None if texts.latents is None else texts.latents.shape[1:]
  if images.text.ndim == 2 and (
    images.latents.shape[1:],
    images.text.shape[1:],
  ) == (latents, texts.tokens.shape[1:]):
    return
  raise ValueError(
    "merging both streams needs equal shapes, got images "
    f"{images.latents.shape[1:]} and {latents}, texts "
    f"{images.text.shape[1:]} and {texts.tokens.shape[1:]}: set "
    "loss.is_merged=False"
  )
