"""One process's error becomes every process's error."""

import jax
import numpy as np
from jax.experimental import multihost_utils

from ddit_jax.checkpoint.manifest import CheckpointError


def raise_on_all(error: Exception | None, *, doing: str) -> None:
  """Raises on every process when any process brings an error.

  Without it the healthy processes would wait in the next collective for one
  that has already left. All processes must call it; with one process it only
  raises `error` again.

  Args:
    error: what went wrong on this process, or None.
    doing: what was tried, e.g. "verifying step 100"; used in the message.

  Raises:
    Exception: `error` itself, where there is one.
    CheckpointError: another process failed.
  """
  has_failed = np.array([error is not None])
  if jax.process_count() > 1:
    has_failed = multihost_utils.process_allgather(has_failed, tiled=True)
  if error is not None:
    raise error
  if has_failed.any():
    where = np.flatnonzero(has_failed).tolist()
    raise CheckpointError(
      f"{doing} failed on process {where}: the reason is in its own output"
    )
