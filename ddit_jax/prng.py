"""Random keys as a function of (root, purpose, step).

No state is carried from step to step, so none has to be checkpointed, and a new
purpose does not change the draws of the others.
"""

import zlib

import jax
from jaxtyping import Array, Int, Integer, Key

# JAX's keys take 32 bits: a larger seed would silently wrap around.
MAX_SEED = 2**32 - 1


def key_for(
  root: Key[Array, ""], purpose: str, step: int | Int[Array, ""] = 0
) -> Key[Array, ""]:
  """The key of one purpose at one step, e.g. ("image_noise", 7)."""
  named = jax.random.fold_in(root, zlib.crc32(purpose.encode()))
  return jax.random.fold_in(named, step)


def row_keys(
  root: Key[Array, ""], indices: Integer[Array, " rows"]
) -> Key[Array, " rows"]:
  """A key for each row, a function of its index alone.

  So a row's draws depend neither on the rows beside it nor on the batch size.
  """
  return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(root, indices)


def check_seed(seed: int) -> None:
  """Raises ValueError unless `seed` maps to a unique key."""
  if not 0 <= seed <= MAX_SEED:
    raise ValueError(f"seed must be in 0 to {MAX_SEED}, got {seed}")
