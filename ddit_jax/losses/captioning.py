"""A captioner's loss: cross-entropy of each token after the ones before."""

import dataclasses
from typing import Any, Protocol, runtime_checkable

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from ddit_jax.batch import DualBatch, Images
from ddit_jax.losses.drawn_texts import scored_positions
from ddit_jax.losses.time_buckets import Buckets
from ddit_jax.prng import key_for, row_keys


@runtime_checkable
class CaptioningModel(Protocol):
  """A captioner and what reads its images, as pure functions of `variables`.

  Attributes:
    end_id: the token that ends and pads a text.
  """

  end_id: int

  def read(
    self, variables: Any, images: Images, keys: Key[Array, " batch"]
  ) -> Float[Array, "batch *features"]:
    """The images as the network takes them, without a gradient.

    `keys` draw the noise of each image.
    """

  def caption_logits(
    self,
    variables: Any,
    read: Float[Array, "batch *features"],
    tokens: Int[Array, "batch length"],
  ) -> Float[Array, "batch length vocab"]:
    """Logits of each token, from the image and the tokens before it."""


@flax.struct.dataclass
class _ReadTexts:
  """Examples of a captioner's loss, ready for the network.

  Attributes:
    read: of the images, from `CaptioningModel.read`.
    tokens: of the texts.
    weight: of each token; over the global batch the weighted sum of negative
      log likelihoods is the loss.
  """

  read: Float[Array, "*lead rows features"] | Float[Array, "*lead h w channels"]
  tokens: Int[Array, "*lead length"]
  weight: Float[Array, "*lead length"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CaptionLoss:
  """Mean cross-entropy of a batch's tokens, each text with its first end."""

  def corrupt(
    self,
    batch: DualBatch,
    root: jax.Array,
    step: jax.Array,
    *,
    model: CaptioningModel,
    variables: Any,
    null_tokens: jax.typing.ArrayLike,
  ) -> _ReadTexts:
    """Reads the images, with noise of this step.

    Raises:
      ValueError: there are texts without images.
    """
    del null_tokens
    texts = batch.image_to_text
    if texts is None or texts.images is None:
      raise ValueError(
        "a captioner needs an image of each text: name only sources with "
        "images in data.image_to_text.mixture"
      )
    keys = row_keys(
      key_for(root, "feature_noise", step), jnp.arange(len(texts.tokens))
    )
    is_target = scored_positions(texts.tokens, ~texts.loss_mask, model.end_id)
    if texts.has_image is not None:
      is_target &= texts.has_image[:, None]
    return _ReadTexts(
      read=model.read(variables, texts.images, keys),
      tokens=texts.tokens,
      weight=is_target / jnp.maximum(is_target.sum(), 1),
    )

  def losses(
    self, model: CaptioningModel, variables: Any, corrupted: _ReadTexts
  ) -> tuple[dict[str, jax.Array], dict[str, Buckets]]:
    """{"text": the loss}, and no buckets; see `Objective.losses`."""
    logits = model.caption_logits(variables, corrupted.read, corrupted.tokens)
    likelihoods = _next_token_log_likelihoods(logits, corrupted.tokens)
    return {"text": -(corrupted.weight * likelihoods).sum()}, {}

  def total(self, losses: dict[str, jax.Array]) -> jax.Array:
    """The only loss."""
    return losses["text"]

  def alone(self, corrupted: _ReadTexts) -> dict[str, _ReadTexts]:
    """There is one task."""
    return {"both": corrupted}

  def for_validation(self) -> "CaptionLoss":
    """Itself: there are no diffusion times."""
    return self


def _next_token_log_likelihoods(
  logits: Float[Array, "batch length vocab"], tokens: Int[Array, "batch length"]
) -> Float[Array, "batch length"]:
  """log p of each token, float32."""
  log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
  return jnp.take_along_axis(log_p, tokens[..., None], axis=-1)[..., 0]
