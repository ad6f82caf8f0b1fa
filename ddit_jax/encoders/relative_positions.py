"""T5's relative positions: which distances share one attention bias."""

import math

import numpy as np
from jaxtyping import Int

Offsets = Int[np.ndarray, "*dims"]


def relative_buckets(
  length: int, *, num_buckets: int, max_distance: int
) -> Int[np.ndarray, "length length"]:
  """The bucket of every (query, key) pair; see `offset_buckets`.

  Args:
    length: number of tokens.
    num_buckets: a multiple of four.
    max_distance: in tokens; above num_buckets / 4.
  """
  positions = np.arange(length)
  return offset_buckets(
    positions[None, :] - positions[:, None],
    num_buckets=num_buckets,
    max_distance=max_distance,
  )


def offset_buckets(
  offset: Offsets, *, num_buckets: int, max_distance: int
) -> Offsets:
  """The bucket of key minus query position, bidirectional (T5, section 2.1).

  The upper half of the buckets is for keys after the query. Within a half,
  the nearer distances have a bucket each; from there to `max_distance` the
  widths grow logarithmically, and all greater distances share the last one.
  """
  distance = np.abs(offset)
  half = num_buckets // 2
  exact = half // 2
  # float32 as in T5's own code: the widths' edges depend on the rounding.
  growth = np.log(np.maximum(distance, 1).astype(np.float32) / exact)
  growth = growth / np.float32(math.log(max_distance / exact))
  logarithmic = exact + (growth * (half - exact)).astype(np.int32)
  bucket = np.where(
    distance < exact, distance, np.minimum(logarithmic, half - 1)
  )
  return (bucket + half * (offset > 0)).astype(np.int32)
