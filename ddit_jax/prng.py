"""Random keys as a function of (root, purpose, step).

No state is carried from step to step, so none has to be checkpointed, and a new
purpose does not change the draws of the others.
"""

import zlib

import jax
import numpy as np
from jaxtyping import Array, Int, Integer, Key

from ddit_jax.errors import InputError

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


def root_key(seed: int) -> Key[Array, ""]:
  """The root of a run's or a sampler's keys; raises as `check_seed`."""
  check_seed(seed)
  return jax.random.key(seed)


def check_seed(seed: int) -> None:
  """Raises InputError unless `seed` maps to a unique key."""
  is_whole = isinstance(seed, int | np.integer) and not isinstance(seed, bool)
  if not is_whole or not 0 <= seed <= MAX_SEED:
    raise InputError(f"seed must be in 0 to {MAX_SEED}, got {seed!r}")
