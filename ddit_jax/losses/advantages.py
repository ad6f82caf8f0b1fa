"""Rewards to advantages within the draws of one prompt."""

import jax.numpy as jnp
from jaxtyping import Array, Float

# Below it all rewards of a batch are equal, and none is better than another.
_NO_SPREAD = 1e-6


def group_advantages(
  rewards: Float[Array, "rows kinds"],
  weights: Float[Array, " kinds"],
  *,
  group_size: int,
  is_scaled: bool,
) -> Float[Array, " rows"]:
  """How much better each row is than the others of its prompt.

  Each kind of reward has its own advantage, so that a reward on a large scale
  does not drown the others; their weighted sum is returned.

  Args:
    rewards: of all draws; those of a prompt follow each other.
    weights: of the kinds.
    group_size: draws of each prompt.
    is_scaled: True divides by the standard deviation over the whole batch,
      which is less biased than one for each prompt.
  """
  rows, kinds = rewards.shape
  groups = rewards.astype(jnp.float32).reshape(-1, group_size, kinds)
  centred = groups - groups.mean(axis=1, keepdims=True)
  centred = centred.reshape(rows, kinds)
  if is_scaled:
    spread = centred.std(axis=0, keepdims=True)
    scaled = centred / jnp.maximum(spread, _NO_SPREAD)
    centred = jnp.where(spread > _NO_SPREAD, scaled, 0.0)
  return centred @ weights
