"""One example to one record of either training task."""

import copy
import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Int

from ddit_jax.data.example import BadRecord, Example, Pair, TrainingRecord
from ddit_jax.data.image import ImageTransform
from ddit_jax.data.image_header import is_animation
from ddit_jax.data.text import TextTransform, TokenizedText, names_a_side

_CHANNELS = 3
_TOKEN_BYTES = np.dtype(np.int32).itemsize


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextToImageTransform:
  """Records {"images", "tokens"} of the image loss.

  The sampled text is the caption; an example's prompt is ignored. One without
  any text gets the null caption.

  Attributes:
    images: to uint8 [height, width, 3].
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
        "text without an image, which only the image-to-text task can use",
        example.record_id,
      )
    texts = (*example.texts, *example.rewritten)
    # Filters decide whether images without captions are records.
    text = self.texts.draw(example, rng) if any(texts) else ""
    tokenized = self.texts.tokenize_and_pad("", text, example.record_id)
    pixels = self.images(
      example.image,
      rng,
      record_id=example.record_id,
      may_flip=self.images.flips and not names_a_side(text),
    )
    arrays = {"images": pixels, "tokens": tokenized.tokens}
    return TrainingRecord(
      arrays=arrays | self.more_arrays(example, text),
      num_truncated=num_lost_tokens(tokenized),
      num_unknown=tokenized.num_unknown,
      is_animation=_is_animation(example),
    )

  def more_arrays(self, example: Example, text: str) -> dict[str, np.ndarray]:
    """Additional arrays for the sampled text; none here."""
    del example, text
    return {}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageToTextTransform:
  """Records {"images", "tokens", "loss_mask", "has_image"} of the text loss.

  A text without an image gets a black one and has_image False.

  Attributes:
    images: to uint8 [height, width, 3].
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
    tokenized = self.texts.tokenize_and_pad(
      example.prompt, text, example.record_id
    )
    if example.image is None:
      image = self.no_image()
    else:
      pixels = self.images(
        example.image,
        rng,
        record_id=example.record_id,
        may_flip=self.images.flips
        and not names_a_side(example.prompt, text, *_rejected_texts(example)),
      )
      image = {"images": pixels, "has_image": np.bool_(True)}
    return TrainingRecord(
      arrays={
        "tokens": tokenized.tokens,
        "loss_mask": tokenized.loss_mask,
        **image,
      },
      num_truncated=num_lost_tokens(tokenized),
      num_unknown=tokenized.num_unknown,
      is_animation=_is_animation(example),
    )

  def no_image(self) -> dict[str, np.ndarray]:
    """Image arrays for the record of a text without an image."""
    return {
      "images": np.zeros((*self.images.shape, _CHANNELS), np.uint8),
      "has_image": np.bool_(False),
    }


def num_lost_tokens(tokenized: TokenizedText) -> int:
  """Number of truncated tokens, not counting the end token."""
  # Losing the end token is harmless: the text itself is complete.
  return max(0, tokenized.num_truncated - 1)


def _rejected_texts(example: Example) -> tuple[str, ...]:
  return example.rejected.texts if isinstance(example, Pair) else ()


def _is_animation(example: Example) -> bool:
  """False where a cache holds what became of the image."""
  return isinstance(example.image, bytes) and is_animation(example.image)


def _image_bytes(images: ImageTransform) -> int:
  return images.num_pixels * _CHANNELS


_TARGET_BYTES = np.dtype(np.int32).itemsize + np.dtype(np.bool_).itemsize


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextOnlyTransform:
  """Records {"tokens", "loss_mask"} of a task without images.

  Attributes:
    texts: to int32 and bool [length].
  """

  texts: TextTransform

  @property
  def record_bytes(self) -> int:
    """Size of one record in memory."""
    return _TARGET_BYTES * self.texts.length

  def __call__(
    self, example: Example, rng: np.random.Generator
  ) -> TrainingRecord:
    """Raises BadRecord."""
    if example.image is not None:
      raise BadRecord(
        "bad_text", "an image in a source of texts alone", example.record_id
      )
    text = self.texts.draw(example, rng)
    tokenized = self.texts.tokenize_and_pad(
      example.prompt, text, example.record_id
    )
    return TrainingRecord(
      arrays={"tokens": tokenized.tokens, "loss_mask": tokenized.loss_mask},
      num_truncated=num_lost_tokens(tokenized),
      num_unknown=tokenized.num_unknown,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairTransform:
  """Records of either task with the "rejected" images or tokens of a pair.

  Texts have "rejected_loss_mask", too.

  Attributes:
    one: of the chosen and of the rejected example, with the same draws.
    array: the array that they differ in, "images" or "tokens".
  """

  one: TextToImageTransform | ImageToTextTransform | TextOnlyTransform
  array: str

  @property
  def record_bytes(self) -> int:
    """Size of one record in memory, or a little more."""
    return 2 * self.one.record_bytes

  def __call__(self, pair: Pair, rng: np.random.Generator) -> TrainingRecord:
    """Raises BadRecord; equal_pair if this task sees no difference."""
    again = copy.deepcopy(rng)
    chosen = self.one(pair, rng)
    rejected = self.one(self._rejected(pair), again)
    arrays = {"rejected": rejected.arrays[self.array]}
    if np.array_equal(arrays["rejected"], chosen.arrays[self.array]):
      raise BadRecord(
        "equal_pair",
        f"both have the same {self.array}, which this task compares",
        pair.record_id,
      )
    if "loss_mask" in rejected.arrays:
      arrays["rejected_loss_mask"] = rejected.arrays["loss_mask"]
    return dataclasses.replace(
      chosen,
      arrays=chosen.arrays | arrays,
      num_truncated=chosen.num_truncated + rejected.num_truncated,
      num_unknown=chosen.num_unknown + rejected.num_unknown,
    )

  def _rejected(self, pair: Pair) -> Example:
    """Without an image to decode, or with the chosen one's caption."""
    other = pair.rejected
    if self.array == "tokens":
      return dataclasses.replace(other, image=None)
    # Its text decides whether both images may be mirrored.
    texts = {"texts": pair.texts, "rewritten": pair.rewritten}
    image = pair.image if other.image is None else other.image
    return dataclasses.replace(other, image=image, **texts)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PackedRowTransform:
  """Records {"tokens", "loss_mask"} of packed rows.

  All tokens are targets, except what has no id.

  Attributes:
    length: tokens of a row.
    unknown_id: see `Tokenizer.unknown_id`.
    no_image: arrays that replace the missing image in each record;
      {} in a text-only task.
  """

  length: int
  unknown_id: int | None
  no_image: Mapping[str, np.ndarray]

  @property
  def record_bytes(self) -> int:
    """Size of one record in memory."""
    held = sum(array.nbytes for array in self.no_image.values())
    return _TARGET_BYTES * self.length + held

  def __call__(
    self, row: Int[np.ndarray, " length"], rng: np.random.Generator
  ) -> TrainingRecord:
    """The record of int32 [length]; nothing is sampled or truncated."""
    del rng
    is_unknown = row == self.unknown_id
    arrays = {"tokens": row, "loss_mask": np.logical_not(is_unknown)}
    return TrainingRecord(
      arrays=arrays | self.no_image, num_unknown=int(np.sum(is_unknown))
    )
