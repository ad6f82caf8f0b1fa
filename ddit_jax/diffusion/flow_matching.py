"""The straight path from clean latents to noise (paper eq. 1-3 and 8)."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ddit_jax.errors import check_choices

# Steps of the released code's grid of training times.
NUM_TRAIN_TIMESTEPS = 1000


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlowMatching:
  """noisy = (1 - sigma) * clean + sigma * noise; velocity = noise - clean.

  Attributes:
    loss_weighting: "velocity" weighs every sigma alike (the paper);
      "sigma_squared" weighs by sigma ** 2 (the released code, which compares
      clean latents).
    sigma_grid: "continuous", or "thousand" to round sigma down to the
      released code's grid of 1000 values.
    logit_mean: m of the logit-normal training times, SD3's
      rf/lognorm(m, 1); above 0 favours noisy images, where the text decides.
    sigma_draw: "independent", or "stratified" over the global batch: the same
      distribution with less variance.
  """

  loss_weighting: Literal["velocity", "sigma_squared"] = "velocity"
  sigma_grid: Literal["continuous", "thousand"] = "continuous"
  logit_mean: float = 0.0
  sigma_draw: Literal["independent", "stratified"] = "independent"

  def __post_init__(self):
    check_choices(self)

  def noisy_latents(
    self,
    clean: Float[Array, "batch height width channels"],
    noise: Float[Array, "batch height width channels"],
    sigma: Float[Array, " batch"],
  ) -> Float[Array, "batch height width channels"]:
    """The point at `sigma` on the path (eq. 1)."""
    sigma = sigma[:, None, None, None]
    return (1 - sigma) * clean + sigma * noise

  def velocity(self, clean: jax.Array, noise: jax.Array) -> jax.Array:
    """The path's derivative in sigma, the network's target (eq. 2)."""
    return noise - clean

  def loss_weight(self, sigma: Float[Array, " batch"]) -> jax.Array:
    """Factor of each example's mean squared velocity error."""
    if self.loss_weighting == "sigma_squared":
      return jnp.square(sigma)
    return jnp.ones_like(sigma)

  def training_sigmas(self, key: jax.Array, batch: int) -> jax.Array:
    """Logit-normal(m, 1) times in (0, 1) of a global batch, float32."""
    if self.sigma_draw == "independent":
      return self.sigmas_from_normals(jax.random.normal(key, (batch,)))
    # One uniform draw inside each of `batch` equally probable strata.
    inside = jax.random.uniform(key, (batch,), minval=1e-6, maxval=1 - 1e-6)
    strata = (jnp.arange(batch, dtype=jnp.float32) + inside) / batch
    return self.sigmas_from_normals(jax.scipy.special.ndtri(strata))

  def sigmas_from_normals(
    self, normals: Float[Array, " batch"]
  ) -> Float[Array, " batch"]:
    """Standard normals to sigma, on the grid if there is one."""
    normals = normals + self.logit_mean
    if self.sigma_grid == "continuous":
      return jax.nn.sigmoid(normals)
    steps = NUM_TRAIN_TIMESTEPS
    index = jnp.floor(jax.nn.sigmoid(normals) * steps)
    # One division: 1 - index / steps would round twice.
    return (steps - jnp.minimum(index, steps - 1)) / steps


def classifier_free_guidance(
  conditional: jax.Array, unconditional: jax.Array, scale: float | jax.Array
) -> jax.Array:
  """Classifier-free guidance (paper eq. 10); scale 1 is no guidance."""
  return unconditional + scale * (conditional - unconditional)
