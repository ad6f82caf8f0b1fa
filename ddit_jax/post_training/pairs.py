"""Preference pairs of the data, in place of draws and rewards."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Key

from ddit_jax.batch import ImageToTextBatch, TextToImageBatch
from ddit_jax.data.example import Source, has_pairs
from ddit_jax.diffusion.flow_matching import FlowMatching
from ddit_jax.errors import InputError
from ddit_jax.losses.diffusion_dpo import PreferredImages
from ddit_jax.losses.drawn_texts import (
  DrawnTexts,
  log_probability,
  prompt_positions,
  scored_positions,
)
from ddit_jax.losses.flow_matching import noisy_images
from ddit_jax.losses.vrpo import PreferredTexts
from ddit_jax.post_training.config import DRAWING, TextPolicy
from ddit_jax.post_training.draws import (
  encoded_captions,
  predicted_velocity,
  reference_policy,
)
from ddit_jax.prng import key_for, row_keys
from ddit_jax.train.state import TrainState


def check_has_pairs(
  task: str, method: str, sources: Mapping[str, Source]
) -> None:
  """Raises InputError unless a task's sources have what its method takes."""
  pairs = [name for name, source in sources.items() if has_pairs(source)]
  takes_pairs = bool(method) and method not in DRAWING
  if takes_pairs and not pairs:
    raise InputError(
      f"post_training.{task}.method takes preference pairs, but the records of "
      f"data.{task}.mixture have none: name sources of the kind pairs"
    )
  if pairs and not takes_pairs:
    raise InputError(
      f"data.{task}.mixture has preference pairs ({', '.join(pairs)}), but "
      f"post_training.{task}.method is {method!r}: set one that takes them "
      "(dpo, vrpo_pairs), or name other sources"
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImagePairs:
  """Pairs of images of one caption; pure functions as `ImageDraws`'.

  Attributes:
    model: the network between its encoders.
    flow_matching: the image diffusion.
  """

  model: Any
  flow_matching: FlowMatching

  def draw(
    self, state: TrainState, batch: TextToImageBatch, root, step, **_
  ) -> tuple[TextToImageBatch, None]:
    """The batch itself; rewards see nothing."""
    del state, root, step
    return batch, None

  def compare(
    self,
    state: TrainState,
    batch: TextToImageBatch,
    rewards: None,
    root: Key[Array, ""],
  ) -> PreferredImages:
    """Both images at the same time with the same noise."""
    del rewards
    variables = state.variables(state.params)
    text = encoded_captions(self.model, variables, batch)
    key = key_for(root, "image_posterior", state.step)
    chosen, rejected = (
      self.model.encode(variables, images, one)
      for images, one in zip(
        (batch.images, batch.rejected), jax.random.split(key), strict=True
      )
    )
    sigma = self.flow_matching.training_sigmas(
      key_for(root, "image_time", state.step), len(text)
    )
    noise_key = key_for(root, "image_noise", state.step)
    noise = jax.random.normal(noise_key, chosen.shape)
    reference = reference_policy(state)

    def noised(latents):
      noisy = noisy_images(
        latents,
        text,
        sigma=sigma,
        noise=noise,
        flow_matching=self.flow_matching,
      ).replace(weight=jnp.full(len(text), 1 / len(text)))
      return noisy, predicted_velocity(self.model, reference, noisy)

    (chosen, chosen_seen), (rejected, rejected_seen) = map(
      noised, (chosen, rejected)
    )
    return PreferredImages(
      chosen=chosen,
      rejected=rejected,
      chosen_reference=chosen_seen,
      rejected_reference=rejected_seen,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextPairs:
  """Pairs of texts of one prompt; pure functions as `TextDraws`'.

  Attributes:
    model: the network between its encoders.
    policy: how texts are trained on.
    end_id: of the token that closes a text.
  """

  model: Any
  policy: TextPolicy
  end_id: int

  def draw(
    self, state: TrainState, batch: ImageToTextBatch, root, step, **_
  ) -> tuple[ImageToTextBatch, None]:
    """The batch itself; rewards see nothing."""
    del state, root, step
    return batch, None

  def compare(
    self,
    state: TrainState,
    batch: ImageToTextBatch,
    rewards: None,
    root: Key[Array, ""],
  ) -> PreferredTexts:
    """Both texts, each with the reference's bound."""
    del rewards
    variables, latents = state.variables(state.params), None
    if batch.images is not None:
      key = key_for(root, "condition_posterior", state.step)
      latents = self.model.encode(variables, batch.images, key)
    chosen, rejected = (
      self._texts(batch, *one, latents, root, state.step)
      for one in (
        (batch.tokens, batch.loss_mask),
        (batch.rejected, batch.rejected_loss_mask),
      )
    )
    num_rows = len(batch.tokens)
    return preferred_texts(
      self.model,
      state,
      chosen,
      rejected,
      jnp.full(num_rows, 1 / num_rows),
      num_passes=self.policy.num_passes,
    )

  def _texts(
    self,
    batch: ImageToTextBatch,
    tokens: Int[Array, "rows length"],
    loss_mask: Bool[Array, "rows length"],
    latents,
    root,
    step,
  ) -> DrawnTexts:
    is_given = prompt_positions(loss_mask)
    keys = row_keys(key_for(root, "bound", step), jnp.arange(len(tokens)))
    return DrawnTexts(
      latents=latents,
      tokens=tokens,
      is_given=is_given,
      # What has no id stays masked.
      is_scored=scored_positions(tokens, is_given, self.end_id) & loss_mask,
      draws=jax.random.key_data(keys),
      has_image=batch.has_image,
    )


def preferred_texts(
  model,
  state: TrainState,
  chosen: DrawnTexts,
  rejected: DrawnTexts,
  weight: jax.Array,
  *,
  num_passes: int,
) -> PreferredTexts:
  """Pairs of texts with the reference's bounds of them."""
  chosen_reference, rejected_reference = (
    log_probability(model, reference_policy(state), texts, num_passes)
    for texts in (chosen, rejected)
  )
  return PreferredTexts(
    chosen=chosen,
    rejected=rejected,
    chosen_reference=chosen_reference,
    rejected_reference=rejected_reference,
    weight=weight,
  )
