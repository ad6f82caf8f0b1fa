"""The losses of the release, with recorded draws in place of random ones."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from ddit_jax.diffusion.flow_matching import FlowMatching
from ddit_jax.diffusion.masked_diffusion import MaskedDiffusion
from ddit_jax.losses import flow_matching, masked_diffusion
from ddit_jax.losses.dual import DualLoss
from parity.axes import channels_last
from parity.golden_set import GoldenSet


def release_diffusion(golden: GoldenSet) -> MaskedDiffusion:
  """The text diffusion of the released code."""
  return MaskedDiffusion(
    noise_schedule="log_linear",
    epsilon=golden.constant("loglinear_eps"),
  )


def release_loss(golden: GoldenSet) -> DualLoss:
  """The dual loss of the released code; a tenth of the captions is dropped."""
  return DualLoss(
    flow_matching=FlowMatching(
      loss_weighting="sigma_squared",
      sigma_grid="thousand",
    ),
    masked_diffusion=release_diffusion(golden),
    text_weight=golden.constant("text_loss_weight"),
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageDraws:
  """Recorded examples of the image loss, and all that is random in them.

  Attributes:
    latents: clean, channels first.
    noise: standard normal numbers, channels first.
    normals: standard normal numbers behind sigma, [batch].
    uniforms: a caption is dropped where they are below the loss's chance.
    tokens: captions.
    null_tokens: the empty caption, [1, length].
  """

  latents: np.ndarray
  noise: np.ndarray
  normals: np.ndarray
  uniforms: np.ndarray
  tokens: np.ndarray
  null_tokens: np.ndarray

  def corrupted(self, loss: DualLoss) -> flow_matching.NoisyImages:
    """What `image_flow.corrupt` would have made with these draws."""
    is_dropped = self.uniforms < loss.condition_dropout
    return flow_matching.noisy_images(
      jnp.asarray(channels_last(self.latents)),
      jnp.where(is_dropped[:, None], self.null_tokens, self.tokens),
      sigma=loss.flow_matching.sigmas_from_normals(jnp.asarray(self.normals)),
      noise=jnp.asarray(channels_last(self.noise)),
      flow_matching=loss.flow_matching,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextDraws:
  """Recorded examples of the text loss, and all that is random in them.

  Attributes:
    latents: clean, channels first.
    tokens: clean.
    noisy_tokens: after masking, had every position been a target.
    t: text times, [batch].
    loss_mask: True where a token may be masked; None means everywhere.
  """

  latents: np.ndarray
  tokens: np.ndarray
  noisy_tokens: np.ndarray
  t: np.ndarray
  loss_mask: np.ndarray | None = None

  def corrupted(
    self,
    diffusion: MaskedDiffusion,
    mask_id: int,
    loss_normalization: masked_diffusion.LossNormalization = "all_positions",
  ) -> masked_diffusion.MaskedTexts:
    """What `text_mask.corrupt` would have made with these draws."""
    loss_mask = self.loss_mask
    if loss_mask is None:
      loss_mask = jnp.ones(self.tokens.shape, bool)
    is_masked = (self.noisy_tokens == mask_id) & loss_mask
    weight = diffusion.loss_weight(jnp.asarray(self.t))
    return masked_diffusion.MaskedTexts(
      latents=jnp.asarray(channels_last(self.latents)),
      tokens=jnp.where(is_masked, mask_id, self.tokens),
      clean_tokens=jnp.asarray(self.tokens),
      is_masked=jnp.asarray(is_masked),
      t=jnp.asarray(self.t),
      weight=weight
      / masked_diffusion.loss_normalizer(loss_mask, loss_normalization),
    )
