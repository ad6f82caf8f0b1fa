"""The loss of a post-training step, in place of the dual loss."""

import dataclasses
import functools
from typing import Any

import jax

from ddit_jax.losses.diffusion_dpo import PreferredImages
from ddit_jax.losses.diffusion_nft import RewardedImages
from ddit_jax.losses.drawn_texts import log_probability
from ddit_jax.losses.dual import CorruptedBatch, DualLoss, Model
from ddit_jax.losses.espo import RewardedTexts
from ddit_jax.losses.time_buckets import Buckets
from ddit_jax.losses.vrpo import PreferredTexts
from ddit_jax.post_training.config import PostTraining
from ddit_jax.post_training.draws import predicted_velocity


@dataclasses.dataclass(frozen=True, kw_only=True)
class PolicyLoss:
  """Losses of scored draws; a task without a method keeps its dual loss.

  Attributes:
    config: the methods.
    dual: the loss of the other task.
  """

  config: PostTraining
  dual: DualLoss

  def losses(
    self, model: Model, variables: Any, corrupted: CorruptedBatch
  ) -> tuple[dict[str, jax.Array], dict[str, Buckets]]:
    """As `DualLoss.losses`, and the distances to the reference as losses.

    They are "image_kl" and "text_kl".
    """
    losses, buckets, rest = {}, {}, corrupted
    if isinstance(corrupted.images, RewardedImages | PreferredImages):
      rest = rest.replace(images=None)
      losses |= self._image_losses(model, variables, corrupted.images)
    if isinstance(corrupted.texts, RewardedTexts | PreferredTexts):
      rest = rest.replace(texts=None)
      losses |= self._text_losses(model, variables, corrupted.texts)
    if rest.images is not None or rest.texts is not None:
      supervised, buckets = self.dual.losses(model, variables, rest)
      losses |= supervised
    return losses, buckets

  @property
  def weights(self) -> dict[str, float]:
    """The weight of each loss in the total."""
    weights, config = self.dual.weights, self.config
    return weights | {
      "image_kl": weights["image"] * config.text_to_image.kl_weight,
      "text_kl": weights["text"] * config.image_to_text.kl_weight,
    }

  def total(self, losses: dict[str, jax.Array]) -> jax.Array:
    """The weighted sum of the losses."""
    return sum(self.weights[name] * loss for name, loss in losses.items())

  def alone(self, corrupted: CorruptedBatch) -> dict[str, CorruptedBatch]:
    """As `DualLoss.alone`."""
    return self.dual.alone(corrupted)

  def _image_losses(
    self, model: Model, variables, images: RewardedImages | PreferredImages
  ):
    policy = self.config.text_to_image
    velocity = functools.partial(predicted_velocity, model, variables)
    if isinstance(images, RewardedImages):
      return policy.nft.losses(velocity(images.noisy), images)
    chosen, rejected = velocity(images.chosen), velocity(images.rejected)
    return policy.dpo.losses(chosen, rejected, images)

  def _text_losses(
    self, model: Model, variables, texts: RewardedTexts | PreferredTexts
  ):
    policy = self.config.image_to_text
    bound = functools.partial(
      log_probability, model, variables, num_passes=policy.num_passes
    )
    if isinstance(texts, RewardedTexts):
      return policy.espo.losses(bound(texts.drawn), texts)
    chosen, rejected = bound(texts.chosen), bound(texts.rejected)
    return policy.vrpo.losses(chosen, rejected, texts)
