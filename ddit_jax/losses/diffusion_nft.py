"""DiffusionNFT: rewarded images train the forward process (arXiv:2509.16117).

With v the velocity of the trained policy and v_old that of the one that drew
the images, at the same noised latents, an image is approached by v+ and left by
v-, in the proportion r of how good it is:

  v+ = beta v + (1 - beta) v_old,     v- = (1 + beta) v_old - beta v
  r |x0(v+) - x0|^2 / w+  +  (1 - r) |x0(v-) - x0|^2 / w-

where x0(v) = x_sigma - sigma v, and w is the mean absolute error, which is not
differentiated. No likelihood and no trajectory of the sampler is needed.
"""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ddit_jax.losses.flow_matching import NoisyImages, squared_errors

_Velocity = Float[Array, "rows height width channels"]
# Keeps a quotient finite.
_SMALLEST_ERROR = 1e-5


@flax.struct.dataclass
class RewardedImages:
  """Noised images that a policy drew, with its velocity and their worth.

  Attributes:
    noisy: of the images that were drawn; `velocity` leads from them to noise.
    old_velocity: of the policy that drew them.
    reference_velocity: of the policy that training started from; None if its
      distance has no weight.
    optimality: r, in [0, 1]; 1/2 is an image like the others of its caption.
  """

  noisy: NoisyImages
  old_velocity: Float[Array, "*lead height width channels"]
  reference_velocity: Float[Array, "*lead height width channels"] | None
  optimality: Float[Array, "*lead"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiffusionNft:
  """The loss of images with rewards.

  Attributes:
    beta: how far v+ and v- lie from the old policy, positive.
    advantage_clip: c; an advantage of c or more, in standard deviations, gives
      r = 1, and one of -c or less r = 0.
    kl_weight: lambda of |v - v_reference|^2.
    times_per_image: noise levels that each drawn image is trained at.
  """

  beta: float = 1.0
  advantage_clip: float = 2.0
  kl_weight: float = 1e-3
  times_per_image: int = 2

  def __post_init__(self):
    for name in ("beta", "advantage_clip", "times_per_image"):
      if getattr(self, name) <= 0:
        raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
    if self.kl_weight < 0:
      raise ValueError(f"kl_weight is negative: {self.kl_weight}")

  def optimality(
    self, advantages: Float[Array, " rows"]
  ) -> Float[Array, " rows"]:
    """r = clip(advantage / c / 2 + 1/2, 0, 1)."""
    return jnp.clip(advantages / self.advantage_clip / 2 + 0.5, 0.0, 1.0)

  def losses(
    self, velocity: _Velocity, images: RewardedImages
  ) -> dict[str, Float[Array, ""]]:
    """The policy's loss, and the squared distance to the reference.

    Args:
      velocity: of the trained policy.
      images: a global batch, or a part: sums over the parts add up.

    Returns:
      {"image": ..., "image_kl": ...}, before `kl_weight`; the latter only with
      a reference.
    """
    old, noisy = images.old_velocity, images.noisy
    toward = self.beta * velocity + (1 - self.beta) * old
    away = (1 + self.beta) * old - self.beta * velocity
    share = images.optimality
    policy = share * _normalised_errors(toward, noisy)
    policy += (1 - share) * _normalised_errors(away, noisy)
    losses = {"image": (noisy.weight * policy).sum()}
    if images.reference_velocity is not None:
      distance = squared_errors(velocity, images.reference_velocity)
      losses["image_kl"] = (noisy.weight * distance).sum()
    return losses


def _normalised_errors(
  velocity: _Velocity, noisy: NoisyImages
) -> Float[Array, " rows"]:
  """Mean squared error of the predicted clean latents, over its mean size.

  x0(v) - x0 is sigma times the error of the velocity.
  """
  error = velocity.astype(jnp.float32) - noisy.velocity.astype(jnp.float32)
  error = noisy.sigma[:, None, None, None] * error
  size = jnp.abs(error).mean(axis=(1, 2, 3))
  size = jax.lax.stop_gradient(jnp.maximum(size, _SMALLEST_ERROR))
  return jnp.square(error).mean(axis=(1, 2, 3)) / size
