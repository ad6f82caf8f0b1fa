"""Randomness with an address: a key is a function of (root, purpose, step).

Nothing is carried from step to step, so nothing has to be checkpointed, and a
new purpose does not shift the draws of the others.
"""

import zlib

import jax


def key_for(
  root: jax.Array, purpose: str, step: int | jax.Array = 0
) -> jax.Array:
  """The key of one purpose at one step, e.g. ("image_noise", 7)."""
  named = jax.random.fold_in(root, zlib.crc32(purpose.encode()))
  return jax.random.fold_in(named, step)
