"""The untouched SD3: its network with three text encoders."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ddit_jax.encoders.sd3_context import join_context
from ddit_jax.experiment.dual_model import DualModel
from ddit_jax.models.mmdit import Prediction
from ddit_jax.models.pure_module import PureModule

# Encoder -> ids [batch, length] of the same prompts.
Ids = Mapping[str, Int[Array, "batch length"]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sd3Model(DualModel):
  """SD3's MM-DiT between CLIP-L, CLIP-G, T5 and the autoencoder.

  Texts are ids by encoder ("clip_l", "clip_g", "text_encoder"). Conditions
  are single arrays, so that the samplers handle them like D-DiT's: the context
  of the text stream, and below it the pooled vector in rows of its width.

  Attributes:
    clip_l: CLIP's text encoder L.
    clip_g: CLIP's text encoder G.
    t5_length: ids that T5 reads. Where there is no T5 (`text_encoder` None)
      as many zeros stand for its features, as in SD3's training.
  """

  clip_l: PureModule
  clip_g: PureModule
  t5_length: int

  def parts(self) -> dict[str, PureModule]:
    """The modules by the name of their variables."""
    return {**super().parts(), "clip_l": self.clip_l, "clip_g": self.clip_g}

  def check_fits(self) -> None:
    """Raises ValueError if network and encoders have different features."""
    if self.text_encoder is not None:
      super().check_fits()
    clips = [part.module.config for part in (self.clip_l, self.clip_g)]
    pooled = sum(clip.projection_dim for clip in clips)
    config = self.network.config
    if pooled != config.pooled_dim:
      raise ValueError(
        f"the network takes {config.pooled_dim} pooled text features, CLIP-L "
        f"and CLIP-G give {pooled}: these belong to different checkpoints"
      )
    width = sum(clip.width for clip in clips)
    if width > config.context_dim:
      raise ValueError(
        f"the network takes text features of {config.context_dim}, CLIP-L and "
        f"CLIP-G give {width}: these belong to different checkpoints"
      )

  def encode_text(
    self, variables, ids: Ids
  ) -> tuple[
    Float[Array, "batch joint_length context"], Float[Array, "batch pooled"]
  ]:
    """(context, pooled vector) of prompts, as `MMDiT` takes them."""
    clip_l, clip_g = (
      part.apply(variables[name], ids[name])
      for name, part in (("clip_l", self.clip_l), ("clip_g", self.clip_g))
    )
    if self.text_encoder is not None:
      t5 = super().condition(variables, ids["text_encoder"])
    else:
      batch, width = clip_l.pooled.shape[0], self.network.config.context_dim
      t5 = jnp.zeros((batch, self.t5_length, width), clip_l.pooled.dtype)
    return join_context(clip_l, clip_g, t5)

  def condition(
    self, variables, ids: Ids
  ) -> Float[Array, "batch packed_length context"]:
    """Context and pooled vector in one array; `predict` takes it apart."""
    context, pooled = self.encode_text(variables, ids)
    batch, _, width = context.shape
    num_rows = self._num_pooled_rows
    missing = num_rows * width - pooled.shape[-1]
    rows = jnp.pad(pooled, ((0, 0), (0, missing)))
    rows = rows.reshape(batch, num_rows, width).astype(context.dtype)
    return jnp.concatenate([context, rows], axis=1)

  def predict(
    self, variables, latents, condition: jax.Array, sigma: jax.Array
  ) -> Prediction:
    """Velocity of the network, without logits."""
    num_rows = self._num_pooled_rows
    rows = condition[:, -num_rows:].reshape(condition.shape[0], -1)
    return self.network.apply(
      variables["network"],
      latents,
      condition[:, :-num_rows],
      sigma,
      rows[:, : self.network.config.pooled_dim],
    )

  @property
  def _num_pooled_rows(self) -> int:
    config = self.network.config
    return -(-config.pooled_dim // config.context_dim)
