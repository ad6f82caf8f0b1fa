"""Randomness with an address: a key is a function of (root, purpose, step).

Nothing is carried from step to step, so nothing has to be checkpointed, and a
new purpose does not shift the draws of the others.
"""

import zlib

import jax
from jaxtyping import Array, Int, Key

# JAX's keys take 32 bits: a larger seed would silently be another one.
MAX_SEED = 2**32 - 1


def key_for(
  root: Key[Array, ""], purpose: str, step: int | Int[Array, ""] = 0
) -> Key[Array, ""]:
  """The key of one purpose at one step, e.g. ("image_noise", 7)."""
  named = jax.random.fold_in(root, zlib.crc32(purpose.encode()))
  return jax.random.fold_in(named, step)


def check_seed(seed: int) -> None:
  """Raises ValueError unless `seed` makes a key of its own."""
  if not 0 <= seed <= MAX_SEED:
    raise ValueError(f"seed must be in 0 to {MAX_SEED}, got {seed}")
