"""One example to one record of either training stream."""

import dataclasses

import numpy as np

from ddit_jax.data.examples import BadRecord, Example
from ddit_jax.data.text_layout import LaidOutText
from ddit_jax.data.transforms.images import ImageTransform
from ddit_jax.data.transforms.texts import TextTransform, names_a_side

_CHANNELS = 3
_TOKEN_BYTES = np.dtype(np.int32).itemsize


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingRecord:
  """What one visit of an example gives.

  Attributes:
    arrays: the record, name to array.
    num_truncated: tokens of the text that were cut off, the end token not
      counted.
  """

  arrays: dict[str, np.ndarray]
  num_truncated: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextToImageTransform:
  """Records {"images", "tokens"} of the image loss.

  The drawn text is the caption; an example's prompt is left out.

  Attributes:
    images: to uint8 [size, size, 3].
    texts: to int32 [length].
  """

  images: ImageTransform
  texts: TextTransform

  @property
  def record_bytes(self) -> int:
    """Size of one record in memory."""
    return _image_bytes(self.images) + _TOKEN_BYTES * self.texts.length

  def __call__(
    self, example: Example, rng: np.random.Generator
  ) -> TrainingRecord:
    """Raises BadRecord; missing_file if the example has no image."""
    if example.image is None:
      raise BadRecord(
        "missing_file",
        "text without an image, which only the image-to-text stream can use",
        example.record_id,
      )
    text = self.texts.draw(example, rng)
    laid_out = self.texts.lay_out("", text, example.record_id)
    pixels = self.images(
      example.image,
      rng,
      record_id=example.record_id,
      may_flip=_may_flip(self.images, text),
    )
    arrays = {"images": pixels, "tokens": laid_out.tokens}
    return TrainingRecord(
      arrays=arrays | self.more_arrays(example, text),
      num_truncated=num_lost_tokens(laid_out),
    )

  def more_arrays(self, example: Example, text: str) -> dict[str, np.ndarray]:
    """What else a record holds for the drawn text; nothing here."""
    del example, text
    return {}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageToTextTransform:
  """Records {"images", "tokens", "is_target", "has_image"} of the text loss.

  A text without an image gets a black one and has_image False.

  Attributes:
    images: to uint8 [size, size, 3].
    texts: to int32 and bool [length].
  """

  images: ImageTransform
  texts: TextTransform

  @property
  def record_bytes(self) -> int:
    """Size of one record in memory."""
    return (
      _image_bytes(self.images) + (_TOKEN_BYTES + 1) * self.texts.length + 1
    )

  def __call__(
    self, example: Example, rng: np.random.Generator
  ) -> TrainingRecord:
    """Raises BadRecord."""
    text = self.texts.draw(example, rng)
    laid_out = self.texts.lay_out(example.prompt, text, example.record_id)
    if example.image is None:
      picture = self.no_image()
    else:
      pixels = self.images(
        example.image,
        rng,
        record_id=example.record_id,
        may_flip=_may_flip(self.images, example.prompt, text),
      )
      picture = {"images": pixels, "has_image": np.bool_(True)}
    return TrainingRecord(
      arrays={
        "tokens": laid_out.tokens,
        "is_target": laid_out.is_target,
        **picture,
      },
      num_truncated=num_lost_tokens(laid_out),
    )

  def no_image(self) -> dict[str, np.ndarray]:
    """What stands in the record of a text without an image."""
    size = self.images.size
    return {
      "images": np.zeros((size, size, _CHANNELS), np.uint8),
      "has_image": np.bool_(False),
    }


def num_lost_tokens(laid_out: LaidOutText) -> int:
  """Tokens of a text that were cut off, its end token not counted."""
  # A cut-off end token is no loss: the text itself is whole.
  return max(0, laid_out.num_truncated - 1)


def _may_flip(images: ImageTransform, *texts: str) -> bool:
  """Searches the texts only where a picture might be mirrored at all."""
  return images.flip_probability > 0 and not names_a_side(*texts)


def _image_bytes(images: ImageTransform) -> int:
  return images.size**2 * _CHANNELS
