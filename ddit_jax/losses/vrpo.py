"""VRPO: preferences between texts on the bound (arXiv:2505.19223).

DPO, with the bound of masked diffusion in place of log-probabilities. Its
variance is kept low as there: policy and reference share times and masks, and
all passes go to different times, with one mask each.
"""

import dataclasses

import flax.struct
import jax
from jaxtyping import Array, Float

from ddit_jax.losses.drawn_texts import DrawnTexts
from ddit_jax.losses.espo import squared_log_ratio


@flax.struct.dataclass
class PreferredTexts:
  """Pairs of texts that follow the same prompt, a row each.

  Attributes:
    chosen: the better text.
    rejected: the other.
    chosen_reference: bound of `chosen` under the reference.
    rejected_reference: likewise.
    weight: of each pair; sums over a global batch's parts add up.
  """

  chosen: DrawnTexts
  rejected: DrawnTexts
  chosen_reference: Float[Array, "*lead"]
  rejected_reference: Float[Array, "*lead"]
  weight: Float[Array, "*lead"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vrpo:
  """The loss of pairs of texts.

  Attributes:
    beta: how strongly the reference holds; small values let go of it.
  """

  beta: float = 0.2

  def __post_init__(self):
    if self.beta <= 0:
      raise ValueError(f"beta must be positive, got {self.beta}")

  def losses(
    self,
    chosen: Float[Array, " rows"],
    rejected: Float[Array, " rows"],
    pairs: PreferredTexts,
  ) -> dict[str, Float[Array, ""]]:
    """{"text": -log sigmoid(beta * margin), "text_kl": of the chosen ones}.

    Args:
      chosen: bound of the chosen texts under the trained policy.
      rejected: likewise.
      pairs: a global batch, or a part: sums over the parts add up.
    """
    margin = chosen - pairs.chosen_reference
    margin -= rejected - pairs.rejected_reference
    distance = squared_log_ratio(
      chosen, pairs.chosen_reference, pairs.chosen.num_scored
    )
    loss = -jax.nn.log_sigmoid(self.beta * margin)
    return {
      "text": (pairs.weight * loss).sum(),
      "text_kl": (pairs.weight * distance).sum(),
    }
