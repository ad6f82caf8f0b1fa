"""ESPO: group-relative optimisation of whole texts (arXiv:2512.03759).

The probability of a text under masked diffusion is known only by its bound B.
The ratio of a policy to the one that drew the text is that of whole texts, per
token, exp((B - B_old) / n), and is clipped as in PPO.
"""

import dataclasses

import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Float

from ddit_jax.losses.drawn_texts import DrawnTexts


@flax.struct.dataclass
class RewardedTexts:
  """Drawn texts with their bounds and their worth.

  Attributes:
    drawn: the texts.
    old_log_p: bound under the policy that drew them.
    reference_log_p: bound under the policy that training started from; None if
      the distance to it has no weight.
    advantage: how much better a text is than the others of its prompt.
    weight: of each row; sums over a global batch's parts add up.
  """

  drawn: DrawnTexts
  old_log_p: Float[Array, "*lead"]
  reference_log_p: Float[Array, "*lead"] | None
  advantage: Float[Array, "*lead"]
  weight: Float[Array, "*lead"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Espo:
  """The loss of texts with rewards.

  Attributes:
    clip: epsilon; ratios count up to 1 - epsilon and 1 + epsilon.
    kl_weight: of ((B - B_reference) / n)^2 / 2.
  """

  clip: float = 0.2
  kl_weight: float = 1e-2

  def __post_init__(self):
    if not 0 < self.clip < 1:
      raise ValueError(f"clip must be in (0, 1), got {self.clip}")
    if self.kl_weight < 0:
      raise ValueError(f"kl_weight is negative: {self.kl_weight}")

  def losses(
    self, log_p: Float[Array, " rows"], texts: RewardedTexts
  ) -> dict[str, Float[Array, ""]]:
    """{"text": the policy's loss, "text_kl": ...}, before `kl_weight`.

    The latter only with a reference.

    Args:
      log_p: bound under the trained policy.
      texts: a global batch, or a part: sums over the parts add up.
    """
    length = texts.drawn.num_scored
    ratio = jnp.exp((log_p - texts.old_log_p) / length)
    clipped = jnp.clip(ratio, 1 - self.clip, 1 + self.clip)
    gain = jnp.minimum(ratio * texts.advantage, clipped * texts.advantage)
    losses = {"text": -(texts.weight * gain).sum()}
    if texts.reference_log_p is not None:
      distance = squared_log_ratio(log_p, texts.reference_log_p, length)
      losses["text_kl"] = (texts.weight * distance).sum()
    return losses


def squared_log_ratio(
  log_p: Float[Array, " rows"],
  reference_log_p: Float[Array, " rows"],
  length: Array,
) -> Float[Array, " rows"]:
  """Half the squared log-ratio per token, an estimate of KL ("k2")."""
  return jnp.square((log_p - reference_log_p) / length) / 2
