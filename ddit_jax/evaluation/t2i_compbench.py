"""T2I-CompBench's BLIP-VQA score of colour, shape and texture.

Source: BLIPvqa_eval of T2I-CompBench at 1b70949; the probabilities of its VQA
model are given.
"""

from collections.abc import Sequence

import numpy as np

_MAX_CHUNKS = 8


def image_score(probabilities: Sequence[float]) -> str:
  """The product of P(yes) over an image's noun phrases, with four decimals.

  The product is in float32, in order, as published.

  Args:
    probabilities: of each noun phrase; at most eight.

  Raises:
    ValueError: more than eight.
  """
  if len(probabilities) > _MAX_CHUNKS:
    raise ValueError(
      f"{len(probabilities)} noun phrases: the score takes at most "
      f"{_MAX_CHUNKS}"
    )
  product = np.float32(1)
  for probability in probabilities:
    product *= np.float32(probability)
  return f"{product:.4f}"
