"""The straight path from clean latents to noise (paper eq. 1-3 and 8)."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

LOSS_WEIGHTINGS = ("velocity", "sigma_squared")
SIGMA_GRIDS = ("continuous", "thousand")
SIGMA_DRAWS = ("independent", "stratified")


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
      law with less variance.
    shift: SD3's resolution shift of the sampling grid; 1 leaves it uniform.
    num_train_steps: grid that fixes the smallest sigma of SD3's sampling grid.
  """

  loss_weighting: str = "velocity"
  sigma_grid: str = "continuous"
  logit_mean: float = 0.0
  sigma_draw: str = "independent"
  shift: float = 3.0
  num_train_steps: int = 1000

  def __post_init__(self):
    if self.loss_weighting not in LOSS_WEIGHTINGS:
      raise ValueError(
        f"loss_weighting must be one of {LOSS_WEIGHTINGS}, got "
        f"{self.loss_weighting!r}"
      )
    if self.sigma_grid not in SIGMA_GRIDS:
      raise ValueError(
        f"sigma_grid must be one of {SIGMA_GRIDS}, got {self.sigma_grid!r}"
      )
    if self.sigma_draw not in SIGMA_DRAWS:
      raise ValueError(
        f"sigma_draw must be one of {SIGMA_DRAWS}, got {self.sigma_draw!r}"
      )
    if not self.shift > 0:
      raise ValueError(f"shift must be positive, got {self.shift}")

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
    steps = self.num_train_steps
    index = jnp.floor(jax.nn.sigmoid(normals) * steps)
    # One division: 1 - index / steps would round twice.
    return (steps - jnp.minimum(index, steps - 1)) / steps

  def sampling_sigmas(self, num_steps: int) -> Float[np.ndarray, " grid"]:
    """Descending times 1, ..., 0 of an Euler solver, float32.

    With shift 1 the grid is uniform. Otherwise it is SD3's: a linear grid
    from 1 to the shifted smallest training sigma, shifted again, then 0; so
    the last non-zero time does not depend on the number of steps.

    Raises:
      ValueError: fewer than one step.
    """
    if num_steps < 1:
      raise ValueError(f"sampling needs at least one step, got {num_steps}")
    if self.shift == 1:
      return np.linspace(1, 0, num_steps + 1, dtype=np.float32)
    smallest = self._shifted(1 / self.num_train_steps)
    grid = np.linspace(
      self.num_train_steps, smallest * self.num_train_steps, num_steps
    )
    shifted = self._shifted(grid / self.num_train_steps)
    return np.append(shifted, 0.0).astype(np.float32)

  def _shifted(self, sigma):
    return self.shift * sigma / (1 + (self.shift - 1) * sigma)


def classifier_free_guidance(
  conditional: jax.Array, unconditional: jax.Array, scale: float | jax.Array
) -> jax.Array:
  """Classifier-free guidance (paper eq. 10); scale 1 is no guidance."""
  return unconditional + scale * (conditional - unconditional)
