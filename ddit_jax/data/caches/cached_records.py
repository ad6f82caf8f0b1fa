"""One cached example to one record of either training stream.

All draws and all bad records are those of reading the images themselves.
"""

import dataclasses

import numpy as np

from ddit_jax.data.caches.array_layout import ArrayLayout
from ddit_jax.data.caches.cache_format import CachedRecord
from ddit_jax.data.caches.cached_source import CachedExample, unpacked
from ddit_jax.data.examples import BadRecord
from ddit_jax.data.transforms.training_records import (
  ImageToTextTransform,
  TextToImageTransform,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoredMoments:
  """Stands where `ImageTransform` does.

  Attributes:
    layout: of an image's moments.
    flip_probability: 0, as a cache holds no mirrored images.
  """

  layout: ArrayLayout
  flip_probability: float = 0.0

  def __call__(
    self,
    record: CachedRecord,
    rng: np.random.Generator,
    *,
    record_id: str,
    may_flip: bool,
  ) -> np.ndarray:
    """Moments [rows, columns, 2 * channels]; draws nothing.

    Raises:
      BadRecord: what decoding the image raised, or corrupt_shard.
    """
    del rng, may_flip
    if record.bad_image is not None:
      raise BadRecord(*record.bad_image, record_id)
    return unpacked(self.layout, record.moments, record_id)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CachedTextToImageTransform(TextToImageTransform):
  """Records {"images", "tokens"} with moments as images, or also "features".

  Attributes:
    images: to moments.
    texts: to int32 [length].
    feature: layout of one text's features; None leaves them out.
  """

  images: StoredMoments
  feature: ArrayLayout | None

  @property
  def record_bytes(self) -> int:
    """Size of one record in memory."""
    held = self.feature.num_bytes if self.feature else 0
    return held + _moments_and_tokens_bytes(self)

  def more_arrays(
    self, example: CachedExample, text: str
  ) -> dict[str, np.ndarray]:
    """The text's features, [length, width]; raises BadRecord."""
    if self.feature is None:
      return {}
    return {"features": example.features(text)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class CachedImageToTextTransform(ImageToTextTransform):
  """Records of the text loss with moments as images.

  Attributes:
    images: to moments.
    texts: to int32 and bool [length].
  """

  images: StoredMoments

  @property
  def record_bytes(self) -> int:
    """Size of one record in memory."""
    return _moments_and_tokens_bytes(self) + self.texts.length + 1

  def no_image(self) -> dict[str, np.ndarray]:
    """What stands in the record of a text without an image."""
    moments = self.images.layout.zeros()
    return {"images": moments, "has_image": np.bool_(False)}


def _moments_and_tokens_bytes(transform) -> int:
  tokens = np.dtype(np.int32).itemsize * transform.texts.length
  return transform.images.layout.num_bytes + tokens
