"""How Stable Diffusion 3 joins the features of its three text encoders."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from ddit_jax.encoders.clip import CLIPFeatures


def join_context(
  clip_l: CLIPFeatures,
  clip_g: CLIPFeatures,
  t5: Float[Array, "batch t5_length t5_width"],
) -> tuple[
  Float[Array, "batch joint_length t5_width"], Float[Array, "batch pooled"]
]:
  """(context, pooled vector) of the MM-DiT (SD3 paper, figure 2).

  Both CLIP features stand side by side and are padded with zeros to T5's
  width; T5's tokens follow theirs. The pooled vectors are concatenated. T5 may
  be left out, as in SD3's own training, by zeros in its place.

  Raises:
    ValueError: the CLIP features differ in length or are wider than T5's.
  """
  l_shape, g_shape = clip_l.penultimate.shape, clip_g.penultimate.shape
  if l_shape[:2] != g_shape[:2] or l_shape[0] != t5.shape[0]:
    raise ValueError(
      f"features of CLIP-L {l_shape}, CLIP-G {g_shape} and T5 {t5.shape} do "
      "not belong together: give all three the same batch and both CLIP "
      "encoders the same length"
    )
  clip = jnp.concatenate([clip_l.penultimate, clip_g.penultimate], axis=-1)
  missing = t5.shape[-1] - clip.shape[-1]
  if missing < 0:
    raise ValueError(
      f"CLIP's features, {clip.shape[-1]} together, are wider than T5's "
      f"{t5.shape[-1]}: use the encoders SD3 was trained with"
    )
  clip = jnp.pad(clip, ((0, 0), (0, 0), (0, missing)))
  context = jnp.concatenate([clip, t5.astype(clip.dtype)], axis=1)
  pooled = jnp.concatenate([clip_l.pooled, clip_g.pooled], axis=-1)
  return context, pooled
