"""Numbers for parameters that no checkpoint has."""

import re
import zlib

import numpy as np

from ddit_jax.conversion.plan import FreshPiece

_NORMAL = re.compile(r"normal\(0, ([\d.e+-]+)\)")


def fresh_values(piece: FreshPiece, seed: int) -> np.ndarray:
  """float32 numbers of a fresh piece; equal seeds give equal numbers.

  Every piece has its own stream, so that neither the order of writing nor
  other pieces change it.
  """
  if piece.init == "zeros":
    return np.zeros(piece.shape, np.float32)
  if piece.init == "identity":
    return np.eye(*piece.shape, dtype=np.float32)
  std = float(_NORMAL.fullmatch(piece.init).group(1))
  stream = zlib.crc32(f"{piece.array}[{piece.block}]".encode())
  generator = np.random.default_rng([seed, stream])
  values = generator.standard_normal(piece.shape, dtype=np.float32)
  return values * np.float32(std)
