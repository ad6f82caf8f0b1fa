"""SD3 as published: its model and its text-to-image pipeline."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from ddit_jax.data.prompt_tokenizers import PromptTokenizer
from ddit_jax.encoders.clip import join_context
from ddit_jax.experiment.config import SampleConfig
from ddit_jax.experiment.model import DualModel
from ddit_jax.models.mmdit import Prediction
from ddit_jax.models.module import PureModule, Variables
from ddit_jax.pipelines.image_pipeline import ImagePipeline

_log = logging.getLogger(__name__)
_MAX_SHOWN_CHARACTERS = 40
# Encoder -> ids [batch, length] of the same prompts.
_Ids = Mapping[str, Int[Array, "batch length"]]


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
      zeros of this length replace its features, as in SD3's training.
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
    self, variables, ids: _Ids
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
    self, variables, ids: _Ids
  ) -> Float[Array, "batch packed_length context"]:
    """Context and pooled vector in one array; `predict` splits it."""
    context, pooled = self.encode_text(variables, ids)
    batch, _, width = context.shape
    num_rows = self._num_pooled_rows
    missing = num_rows * width - pooled.shape[-1]
    rows = jnp.pad(pooled, ((0, 0), (0, missing)))
    rows = rows.reshape(batch, num_rows, width).astype(context.dtype)
    return jnp.concatenate([context, rows], axis=1)

  def predict(
    self, variables, latents, condition: jax.Array, sigma: jax.Array, **options
  ) -> Prediction:
    """Velocity of the network, without logits; see `MMDiT.__call__`."""
    num_rows = self._num_pooled_rows
    rows = condition[:, -num_rows:].reshape(condition.shape[0], -1)
    return self.network.apply(
      variables["network"],
      latents,
      condition[:, :-num_rows],
      sigma,
      rows[:, : self.network.config.pooled_dim],
      **options,
    )

  @property
  def _num_pooled_rows(self) -> int:
    config = self.network.config
    return -(-config.pooled_dim // config.context_dim)


class Sd3Pipeline(ImagePipeline):
  """Text to image with SD3's own weights; it has no text head.

  All text encoders read the same prompt. Each truncates it to its own length
  (CLIP: 75 tokens); what is cut off is counted and logged.

  Attributes:
    tokenizers: of each text encoder, by its name in `model`.
    model: the network with its encoders.
    variables: weights of the model's parts, on `mesh`.
    mesh: the devices.
    sample: default sampling config.
    image_size: default side of generated images, in pixels.
  """

  def __init__(
    self,
    tokenizers: Mapping[str, PromptTokenizer],
    model: Sd3Model,
    variables: dict[str, Variables],
    *,
    mesh: Mesh,
    sample: SampleConfig,
    image_size: int,
  ):
    super().__init__(
      model, variables, mesh=mesh, sample=sample, image_size=image_size
    )
    self.tokenizers = tokenizers

  def __getattr__(self, name: str):
    raise AttributeError(
      f"plain SD3, which only draws images, has no {name!r}: texts need D-DiT; "
      "convert the source with --target=ddit and train it"
    )

  def prompt_ids(self, prompts: Sequence[str]) -> dict[str, np.ndarray]:
    """Ids [prompts, length] for each encoder; logs lost and unknown ids."""
    encoded = {
      name: [tokenizer.encode(prompt) for prompt in prompts]
      for name, tokenizer in self.tokenizers.items()
    }
    for name, rows in encoded.items():
      for prompt, row in zip(prompts, rows, strict=True):
        if row.num_truncated or row.num_unknown:
          _log.warning(
            "%s reads %d ids: of %r it loses %d at the end, and %d are unknown",
            name,
            len(row.ids),
            prompt
            if len(prompt) <= _MAX_SHOWN_CHARACTERS
            else prompt[:_MAX_SHOWN_CHARACTERS] + " ...",
            row.num_truncated,
            row.num_unknown,
          )
    return {
      name: np.stack([row.ids for row in rows])
      for name, rows in encoded.items()
    }
