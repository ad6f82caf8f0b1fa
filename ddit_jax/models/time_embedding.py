"""Image time sigma to the vector that modulates every block."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ddit_jax.models.layers import linear

SINUSOID_CHANNELS = 256
# SD3's networks were trained on times in 0..1000.
TIME_SCALE = 1000.0


def sinusoid(
  sigma: Float[Array, " batch"], channels: int = SINUSOID_CHANNELS
) -> Float[Array, "batch channels"]:
  """Cosines, then sines, of 1000 * sigma at periods up to 2 pi * 10,000."""
  half = channels // 2
  # In float64: at sigma 1 an error of a frequency grows a thousandfold.
  frequencies = (10000.0 ** -(np.arange(half) / half)).astype(np.float32)
  scaled = TIME_SCALE * sigma.astype(jnp.float32)
  angles = scaled[:, None] * frequencies[None, :]
  return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


class VectorEmbedding(nn.Module):
  """Linear, SiLU, Linear: a vector to the width of the network.

  Attributes:
    width: features of the result.
    dtype: dtype of the computation.
  """

  width: int
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self, vector: Float[Array, "batch channels"]
  ) -> Float[Array, "batch features"]:
    first = linear(
      self.width, ("channels", "embed"), name="linear_1", dtype=self.dtype
    )
    second = linear(
      self.width, ("embed", "width"), name="linear_2", dtype=self.dtype
    )
    return second(nn.silu(first(vector.astype(self.dtype))))
