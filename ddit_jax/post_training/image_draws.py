"""Images that the old policy draws, and how good each is to train on."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from ddit_jax.batch import TextToImageBatch
from ddit_jax.diffusion.flow_matching import FlowMatching
from ddit_jax.losses.diffusion_nft import RewardedImages
from ddit_jax.losses.flow_matching import NoisyImages, noisy_images
from ddit_jax.post_training.config import ImagePolicy
from ddit_jax.post_training.draws import (
  Shown,
  advantages_of,
  encoded_captions,
  old_policy,
  predicted_velocity,
  reference_policy,
)
from ddit_jax.prng import key_for, row_keys
from ddit_jax.sampling.image_sampler import generate_latents
from ddit_jax.sharding.rules import repeated_rows
from ddit_jax.train.state import TrainState


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageDraws:
  """Pure functions of a state and a batch of captions.

  Attributes:
    model: the network between its encoders.
    policy: how images are drawn and trained on.
    flow_matching: the image diffusion.
    null_tokens: the empty caption, [length].
  """

  model: Any
  policy: ImagePolicy
  flow_matching: FlowMatching
  null_tokens: Any

  def draw(
    self,
    state: TrainState,
    batch: TextToImageBatch,
    root: Key[Array, ""],
    step: Int[Array, ""],
    *,
    group_size: int,
  ) -> tuple[tuple[jax.Array, jax.Array], Shown]:
    """(clean latents, texts) of `group_size` images a caption; their pixels."""
    variables = old_policy(state)
    text = encoded_captions(self.model, variables, batch)
    text = repeated_rows(text, group_size)
    shape = jax.eval_shape(self.model.encode, variables, batch.images).shape
    noise_key = key_for(root, "rollout_noise", step)
    step_key = key_for(root, "rollout_step_noise", step)
    latents = generate_latents(
      self.model,
      variables,
      text,
      jnp.asarray(self.null_tokens)[None],
      jax.random.normal(noise_key, (len(text), *shape[1:])),
      sampling=self.policy.sampling,
      keys=row_keys(step_key, jnp.arange(len(text))),
    )
    pixels = self.model.decode(variables, latents)
    prompts = repeated_rows(batch.tokens, group_size)
    return (latents, text), Shown(images=pixels, prompts=prompts)

  def compare(
    self,
    state: TrainState,
    drawn: tuple[jax.Array, jax.Array],
    rewards: Float[Array, "draws kinds"],
    root: Key[Array, ""],
  ) -> RewardedImages:
    """The draws, noised, with both policies' velocities and their worth."""
    noisy, nft = self._noised(*drawn, root, state.step), self.policy.nft
    velocity = functools.partial(predicted_velocity, self.model, noisy=noisy)
    advantages = advantages_of(self.policy, rewards, is_scaled=True)
    reference = None
    if self.policy.needs_reference:
      reference = velocity(reference_policy(state))
    return RewardedImages(
      noisy=noisy,
      old_velocity=velocity(old_policy(state)),
      reference_velocity=reference,
      optimality=repeated_rows(nft.optimality(advantages), nft.times_per_image),
    )

  def _noised(
    self, latents: jax.Array, text: jax.Array, root, step
  ) -> NoisyImages:
    """Each image at `times_per_image` times, in rows that follow each other."""
    times = self.policy.nft.times_per_image
    clean = repeated_rows(latents, times)
    sigma = self.flow_matching.training_sigmas(
      key_for(root, "image_time", step), len(clean)
    )
    noise = jax.random.normal(key_for(root, "image_noise", step), clean.shape)
    noisy = noisy_images(
      clean,
      repeated_rows(text, times),
      # Stratified times of an image lie far from each other.
      sigma=sigma.reshape(times, -1).T.reshape(-1),
      noise=noise,
      flow_matching=self.flow_matching,
    )
    # The loss has weights of its own for the times.
    return noisy.replace(weight=jnp.full(len(clean), 1 / len(clean)))
