"""Advantages within groups, against loops."""

import jax.numpy as jnp
import numpy as np
import pytest

from ddit_jax.losses.advantages import group_advantages

WEIGHTS = [1.0, 0.5]


def by_hand(rewards, size, *, is_scaled):
  total = np.zeros(len(rewards))
  for kind, weight in enumerate(WEIGHTS):
    centred = []
    for start in range(0, len(rewards), size):
      group = [row[kind] for row in rewards[start : start + size]]
      centred += [value - sum(group) / size for value in group]
    spread = np.sqrt(np.mean(np.square(centred))) if is_scaled else 1.0
    total += weight * np.array(centred) / spread
  return total


@pytest.mark.parametrize("is_scaled", [True, False])
def test_each_kind_of_reward_is_compared_within_its_prompt(is_scaled):
  rewards = np.random.default_rng(0).normal(size=(12, 2)) * [1, 1000]
  found = group_advantages(
    jnp.asarray(rewards, jnp.float32),
    jnp.array(WEIGHTS),
    group_size=4,
    is_scaled=is_scaled,
  )
  wanted = by_hand(rewards, 4, is_scaled=is_scaled)
  np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_equal_rewards_are_no_advantage():
  rewards = jnp.full((6, 2), 0.7)
  found = group_advantages(
    rewards, jnp.array(WEIGHTS), group_size=3, is_scaled=True
  )
  np.testing.assert_array_equal(found, 0)
