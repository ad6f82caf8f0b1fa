"""The image loss: flow matching on latents (paper eq. 3 and 8)."""

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ddit_jax.diffusion.flow_matching import FlowMatching
from ddit_jax.prng import key_for


@flax.struct.dataclass
class NoisyImages:
  """Corrupted examples of the image loss, ready for the network.

  Attributes:
    latents: noisy latents, the network's input.
    text: captions (ids, or the text encoder's features of them), the null
      caption where the condition was dropped.
    sigma: image time of each example.
    velocity: the target.
    weight: each example's factor; over the global batch the weighted sum of
      mean squared errors is the loss.
  """

  latents: Float[Array, "*lead height width channels"]
  text: Int[Array, "*lead length"] | Float[Array, "*lead length context_dim"]
  sigma: Float[Array, "*lead"]
  velocity: Float[Array, "*lead height width channels"]
  weight: Float[Array, "*lead"]


def corrupt_images(
  latents: Float[Array, "batch height width channels"],
  text: Int[Array, "batch length"] | Float[Array, "batch length context_dim"],
  root: jax.Array,
  step: jax.Array,
  *,
  flow_matching: FlowMatching,
  null_text: Int[Array, " length"] | Float[Array, "length context_dim"],
  condition_dropout: float,
) -> NoisyImages:
  """Draws times, noise and dropped conditions for a global batch.

  Args:
    latents: clean.
    text: captions, as ids or as features.
    root: key of the run's randomness.
    step: number of the step.
    flow_matching: the image diffusion.
    null_text: the empty caption, in the same form.
    condition_dropout: probability of replacing a caption by the empty one.
  """
  size = latents.shape[0]
  sigma = flow_matching.training_sigmas(key_for(root, "image_time", step), size)
  noise = jax.random.normal(key_for(root, "image_noise", step), latents.shape)
  is_dropped = jax.random.bernoulli(
    key_for(root, "condition_dropout", step), condition_dropout, (size,)
  )
  is_dropped = is_dropped.reshape(size, *(1,) * null_text.ndim)
  return noisy_images(
    latents,
    jnp.where(is_dropped, null_text[None], text),
    sigma=sigma,
    noise=noise,
    flow_matching=flow_matching,
  )


def noisy_images(
  latents: Float[Array, "batch height width channels"],
  text: Int[Array, "batch length"] | Float[Array, "batch length context_dim"],
  *,
  sigma: Float[Array, " batch"],
  noise: Float[Array, "batch height width channels"],
  flow_matching: FlowMatching,
) -> NoisyImages:
  """A global batch of clean latents after the draws of `corrupt_images`."""
  return NoisyImages(
    latents=flow_matching.noisy_latents(latents, noise, sigma),
    text=text,
    sigma=sigma,
    velocity=flow_matching.velocity(latents, noise),
    weight=flow_matching.loss_weight(sigma) / latents.shape[0],
  )


def image_loss(
  errors: Float[Array, " batch"], images: NoisyImages
) -> Float[Array, ""]:
  """The image loss, float32; `errors` are those of `squared_errors`."""
  return (images.weight * errors).sum()


def squared_errors(
  velocity: Float[Array, "batch height width channels"],
  target: Float[Array, "batch height width channels"],
) -> Float[Array, " batch"]:
  """Float32 mean squared velocity error of each example, unweighted."""
  error = velocity.astype(jnp.float32) - target.astype(jnp.float32)
  return jnp.mean(jnp.square(error), axis=(1, 2, 3))
