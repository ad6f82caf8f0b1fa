"""Diffusion-DPO: preferences between images (arXiv:2311.12908).

DPO with the bound of the image diffusion, in which a policy's log-probability
is its squared error, up to a factor that beta contains: a policy is to err less
on the chosen image, and more on the rejected one, than the reference does. Both
images have the same noise and time.
"""

import dataclasses

import flax.struct
import jax
from jaxtyping import Array, Float

from ddit_jax.losses.flow_matching import NoisyImages, squared_errors

_Velocity = Float[Array, "rows height width channels"]


@flax.struct.dataclass
class PreferredImages:
  """Pairs of noised images of the same caption, a row each.

  Attributes:
    chosen: the better image.
    rejected: the other.
    chosen_reference: velocity of the reference.
    rejected_reference: likewise.
  """

  chosen: NoisyImages
  rejected: NoisyImages
  chosen_reference: Float[Array, "*lead height width channels"]
  rejected_reference: Float[Array, "*lead height width channels"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiffusionDpo:
  """The loss of pairs of images.

  Attributes:
    beta: of mean squared errors; larger values follow the pairs further.
  """

  beta: float = 1000.0

  def __post_init__(self):
    if self.beta <= 0:
      raise ValueError(f"beta must be positive, got {self.beta}")

  def losses(
    self, chosen: _Velocity, rejected: _Velocity, pairs: PreferredImages
  ) -> dict[str, Float[Array, ""]]:
    """{"image": -log sigmoid(beta * margin), "image_kl": of the chosen ones}.

    Args:
      chosen: velocity of the trained policy at the chosen images.
      rejected: likewise.
      pairs: a global batch, or a part: sums over the parts add up.
    """
    margin = 0.0
    for sign, velocity, reference, noisy in (
      (1, chosen, pairs.chosen_reference, pairs.chosen),
      (-1, rejected, pairs.rejected_reference, pairs.rejected),
    ):
      gained = squared_errors(reference, noisy.velocity)
      gained -= squared_errors(velocity, noisy.velocity)
      margin += sign * gained
    loss = -jax.nn.log_sigmoid(self.beta * margin)
    distance = squared_errors(chosen, pairs.chosen_reference)
    weight = pairs.chosen.weight
    return {
      "image": (weight * loss).sum(),
      "image_kl": (weight * distance).sum(),
    }
