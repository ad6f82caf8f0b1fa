"""What the image autoencoder says about the latents of an image."""

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

Latents = Float[Array, "batch rows columns channels"]


@flax.struct.dataclass
class Posterior:
  """A Gaussian of independent latents, before `AutoencoderConfig.to_network`.

  Attributes:
    mean: [batch, rows, columns, channels], float32.
    logvar: logarithm of the variance, same shape, in [-30, 20].
  """

  mean: Latents
  logvar: Latents

  @classmethod
  def from_moments(
    cls, moments: Float[Array, "batch rows columns moments"]
  ) -> "Posterior":
    """The inverse of `moments`."""
    mean, logvar = jnp.split(moments.astype(jnp.float32), 2, axis=-1)
    return cls(mean=mean, logvar=logvar)

  def moments(self) -> Float[Array, "batch rows columns moments"]:
    """Means, then logarithms of variances, along the channels."""
    return jnp.concatenate([self.mean, self.logvar], axis=-1)

  def at(self, noise: Latents) -> Latents:
    """The latents that are `noise` standard deviations from the mean."""
    return self.mean + jnp.exp(0.5 * self.logvar) * noise

  def sample(self, key: Key[Array, ""]) -> Latents:
    """Random latents."""
    return self.at(jax.random.normal(key, self.mean.shape))
