"""CLIP scores from features of images and texts.

Sources: `clipscore` and `ref_clipscore` are of jmhessel/clipscore (whose texts
begin with "A photo depicts "), `scaled_cosines` of torchmetrics.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

_WEIGHT = 2.5

_Features = Float[np.ndarray, "items dims"]
_Scores = Float[np.ndarray, " items"]


def _cosines(first: _Features, second: _Features) -> _Scores:
  """Cosine of each pair of rows.

  Raises:
    ValueError: unequal shapes, or a row of zeros.
  """
  if first.shape != second.shape:
    raise ValueError(
      f"features of shape {first.shape} and {second.shape}: give one row each"
    )
  lengths = [np.linalg.norm(rows, axis=1) for rows in (first, second)]
  if any((length == 0).any() for length in lengths):
    raise ValueError("a row of features is zero: its cosine is undefined")
  return np.sum(
    first / lengths[0][:, None] * (second / lengths[1][:, None]), axis=1
  )


def clipscore(images: _Features, texts: _Features) -> _Scores:
  """2.5 x max(cosine, 0) of each pair."""
  return _WEIGHT * np.maximum(_cosines(images, texts), 0)


def text_scores(texts: _Features, references: Sequence[_Features]) -> _Scores:
  """The largest cosine, at least 0, of each text with its references."""
  return np.array(
    [
      max(0.0, _cosines(np.broadcast_to(text, rows.shape), rows).max())
      for text, rows in zip(texts, references, strict=True)
    ]
  )


def ref_clipscore(
  images: _Features, texts: _Features, references: Sequence[_Features]
) -> _Scores:
  """Harmonic mean of `clipscore` and `text_scores`; 0 if both are."""
  of_image, of_text = clipscore(images, texts), text_scores(texts, references)
  total = of_image + of_text
  return np.divide(
    2 * of_image * of_text, total, out=np.zeros_like(total), where=total > 0
  )


def scaled_cosines(images: _Features, texts: _Features) -> _Scores:
  """100 x cosine of each pair; torchmetrics takes max(mean, 0) of them."""
  return 100 * _cosines(images, texts)
