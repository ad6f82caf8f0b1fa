"""Retrieval between images and captions from the likelihoods of all pairs."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int64

_CUTOFFS = (1, 5, 10)


def retrieval_recalls(
  nats: Float[np.ndarray, "images captions"], image_of: Sequence[int]
) -> dict[str, float]:
  """Recall at 1, 5 and 10 in both directions, in [0, 1].

  For a caption, images are ranked by log p(caption | image). For an image,
  captions are ranked by log p(caption | image) - log p(caption), where the
  second term is the mean probability over all images here; without it short
  captions would win. An image is found if any of its captions is.

  Args:
    nats: -log p(caption | image).
    image_of: the image of each caption.

  Returns:
    "text_to_image/recall@1" ... and "image_to_text/recall@1" ...

  Raises:
    ValueError: `image_of` does not fit, or an image has no caption.
  """
  image_of = np.asarray(image_of, np.int64)
  num_images, num_captions = nats.shape
  if image_of.shape != (num_captions,) or set(image_of) != set(
    range(num_images)
  ):
    raise ValueError(
      f"nats of {num_images} images and {num_captions} captions need the image "
      "of each caption, and a caption of each image"
    )
  log_p = -np.asarray(nats, np.float64)
  of_captions = _ranks(log_p.T)[np.arange(num_captions), image_of]
  best = log_p.max(axis=0)
  prior = best + np.log(np.exp(log_p - best).mean(axis=0))
  ranks = _ranks(log_p - prior)
  is_own = image_of[None] == np.arange(num_images)[:, None]
  of_images = np.where(is_own, ranks, num_captions).min(axis=1)
  return {
    f"{direction}/recall@{cutoff}": float((found < cutoff).mean())
    for direction, found in (
      ("text_to_image", of_captions),
      ("image_to_text", of_images),
    )
    for cutoff in _CUTOFFS
  }


def _ranks(
  scores: Float[np.ndarray, "rows candidates"],
) -> Int64[np.ndarray, "rows candidates"]:
  """How many candidates of its row score at least as much, itself left out."""
  ordered = np.sort(scores, axis=1)
  return np.stack(
    [
      scores.shape[1] - 1 - np.searchsorted(row, values, side="left")
      for row, values in zip(ordered, scores, strict=True)
    ]
  ).astype(np.int64)
