"""Drawn texts of one to five scored tokens, and log-probabilities of them."""

import jax.numpy as jnp
import numpy as np

from ddit_jax.losses.drawn_texts import DrawnTexts

ROWS, LENGTH = 5, 6
NEW, OLD, REFERENCE = (
  np.random.default_rng(0).normal(-3, 1, (3, ROWS)).astype("f4")
)
NUM_SCORED = np.array([1, 2, 3, 4, 5])


def texts() -> DrawnTexts:
  shape = (ROWS, LENGTH)
  return DrawnTexts(
    latents=None,
    tokens=jnp.zeros(shape, jnp.int32),
    is_given=jnp.zeros(shape, bool),
    is_scored=jnp.arange(LENGTH)[None] < NUM_SCORED[:, None],
    draws=jnp.zeros((ROWS, 2), jnp.uint32),
  )
