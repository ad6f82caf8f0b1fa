"""Texts that the old policy draws, and what each is worth."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from ddit_jax.batch import ImageToTextBatch
from ddit_jax.losses.drawn_texts import (
  DrawnTexts,
  log_probability,
  prompt_positions,
  scored_positions,
)
from ddit_jax.losses.espo import RewardedTexts
from ddit_jax.losses.vrpo import PreferredTexts
from ddit_jax.post_training.config import TextPolicy
from ddit_jax.post_training.draws import (
  Shown,
  advantages_of,
  old_policy,
  reference_policy,
)
from ddit_jax.post_training.pairs import preferred_texts
from ddit_jax.prng import key_for, row_keys
from ddit_jax.sampling.text_sampler import generate_tokens
from ddit_jax.sharding.rules import repeated_rows
from ddit_jax.train.state import TrainState


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextDraws:
  """Pure functions of a state and a batch of prompts.

  Attributes:
    model: the network between its encoders.
    policy: how texts are drawn and trained on.
    end_id: of the token that closes a text.
  """

  model: Any
  policy: TextPolicy
  end_id: int

  def draw(
    self,
    state: TrainState,
    batch: ImageToTextBatch,
    root: Key[Array, ""],
    step: Int[Array, ""],
    *,
    group_size: int,
  ) -> tuple[DrawnTexts, Shown]:
    """`group_size` texts for each prompt."""
    variables = old_policy(state)
    latents = None
    if batch.images is not None:
      latents = self.model.encode(variables, batch.images)
    pixels = self._pixels(variables, batch, latents)
    is_given = prompt_positions(batch.loss_mask)
    rows = batch.tokens, is_given, latents, batch.has_image, pixels
    repeated = functools.partial(repeated_rows, num=group_size)
    rows = jax.tree.map(repeated, rows)
    references, is_given, latents, has_image, pixels = rows
    keys = row_keys(
      key_for(root, "text_rollout", step), jnp.arange(len(references))
    )
    found = generate_tokens(
      self.model,
      variables,
      latents,
      references,
      is_given,
      keys,
      mask_id=self.model.mask_id,
      sampling=self.policy.sampling,
      has_image=has_image,
      end_id=self.end_id,
    )
    drawn = DrawnTexts(
      latents=latents,
      tokens=found.tokens,
      is_given=is_given,
      is_scored=scored_positions(found.tokens, is_given, self.end_id),
      # Other draws than those of the sampler.
      draws=jax.vmap(lambda key: jax.random.key_data(key_for(key, "bound")))(
        keys
      ),
      has_image=has_image,
    )
    shown = Shown(
      images=pixels,
      prompts=references,
      is_prompt=is_given,
      texts=found.tokens,
      references=references,
    )
    return drawn, shown

  def compare(
    self,
    state: TrainState,
    drawn: DrawnTexts,
    rewards: Float[Array, "draws kinds"],
    root: Key[Array, ""],
  ) -> RewardedTexts | PreferredTexts:
    """The draws with their bounds, all of them or the best and the worst."""
    del root
    advantages = advantages_of(self.policy, rewards, is_scaled=False)
    if self.policy.method == "vrpo":
      return self._pairs(state, drawn, advantages)
    num_rows, reference = len(advantages), None
    if self.policy.needs_reference:
      reference = self._bound(reference_policy(state), drawn)
    return RewardedTexts(
      drawn=drawn,
      old_log_p=self._bound(old_policy(state), drawn),
      reference_log_p=reference,
      advantage=advantages,
      weight=jnp.full(num_rows, 1 / num_rows),
    )

  def _pairs(
    self,
    state: TrainState,
    drawn: DrawnTexts,
    advantages: Float[Array, " draws"],
  ) -> PreferredTexts:
    """The best and the worst text of each prompt, if they differ in worth."""
    size = self.policy.group_size
    groups = advantages.reshape(-1, size)
    first = size * jnp.arange(len(groups))
    # Equal rewards leave equal advantages up to rounding.
    is_pair = groups.max(axis=1) - groups.min(axis=1) > 1e-6
    chosen, rejected = (
      jax.tree.map(lambda rows, i=first + best: rows[i], drawn)
      for best in (groups.argmax(axis=1), groups.argmin(axis=1))
    )
    return preferred_texts(
      self.model,
      state,
      chosen,
      rejected,
      is_pair / jnp.maximum(is_pair.sum(), 1).astype(jnp.float32),
      num_passes=self.policy.num_passes,
    )

  def _bound(self, variables, drawn: DrawnTexts) -> Float[Array, " rows"]:
    return log_probability(self.model, variables, drawn, self.policy.num_passes)

  def _pixels(self, variables, batch: ImageToTextBatch, latents) -> jax.Array:
    """The images that texts are about; black ones for text alone."""
    if batch.images is None:
      return jnp.zeros((len(batch.tokens), 1, 1, 3), jnp.uint8)
    if jnp.issubdtype(batch.images.dtype, jnp.floating):
      return self.model.decode(variables, latents)
    return batch.images
