"""Random generators that share no draw though their seeds are equal."""

import zlib

import numpy as np

from ddit_jax.digits import writers


def generator(
  purpose: str, split: str, *, size: int, seed: int
) -> np.random.Generator:
  """The generator for one set of `size` records; the size changes no draw.

  Raises:
    ValueError: if the split is unknown, the size not positive or the seed
      negative.
  """
  if split not in writers.SPLITS:
    raise ValueError(
      f"there is no split {split!r} of the digits; choose one of "
      f"{writers.SPLITS}"
    )
  if size < 1:
    raise ValueError(f"{size} {purpose} were asked for; ask for 1 or more")
  if seed < 0:
    raise ValueError(f"the seed is {seed}; choose 0 or more")
  address = [zlib.crc32(purpose.encode()), writers.SPLITS.index(split), seed]
  return np.random.default_rng(address)
