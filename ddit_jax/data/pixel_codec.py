"""Pixels to latents and back, for networks that work on pixels."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8


@dataclasses.dataclass(frozen=True)
class PixelCodec:
  """Latents that are the pixels themselves, scaled to [-1, 1].

  Attributes:
    bin_width: distance between the latents of neighbouring pixel values.
  """

  bin_width = 1 / 127.5

  def encode(
    self, images: UInt8[Array, "batch height width channels"]
  ) -> Float[Array, "batch height width channels"]:
    """uint8 pixels to float32 latents in [-1, 1]."""
    return images.astype(jnp.float32) / 127.5 - 1

  def decode(
    self, latents: Float[Array, "batch height width channels"]
  ) -> jax.Array:
    """Latents to uint8 pixels; values outside [-1, 1] are clipped."""
    pixels = jnp.round((latents.astype(jnp.float32) + 1) * 127.5)
    return jnp.clip(pixels, 0, 255).astype(jnp.uint8)
