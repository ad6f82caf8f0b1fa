"""Records of the text loss that have no image of their own."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from ddit_jax.data.examples import BadRecord, Example
from ddit_jax.data.transforms.texts import TextTransform
from ddit_jax.data.transforms.training_records import (
  TrainingRecord,
  num_lost_tokens,
)

_TARGET_BYTES = np.dtype(np.int32).itemsize + np.dtype(np.bool_).itemsize


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextAloneTransform:
  """Records {"tokens", "is_target"} of a stream that has no images at all.

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
    laid_out = self.texts.lay_out(example.prompt, text, example.record_id)
    return TrainingRecord(
      arrays={"tokens": laid_out.tokens, "is_target": laid_out.is_target},
      num_truncated=num_lost_tokens(laid_out),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PackedRowTransform:
  """Records {"tokens", "is_target"} of packed rows: all is target.

  Attributes:
    length: tokens of a row.
    no_image: arrays that stand in each record for the image that it lacks;
      {} in a stream of texts alone.
  """

  length: int
  no_image: Mapping[str, np.ndarray]

  @property
  def record_bytes(self) -> int:
    """Size of one record in memory."""
    held = sum(array.nbytes for array in self.no_image.values())
    return _TARGET_BYTES * self.length + held

  def __call__(
    self, row: np.ndarray, rng: np.random.Generator
  ) -> TrainingRecord:
    """The record of int32 [length]; nothing is drawn, nothing can be cut."""
    del rng
    is_target = np.ones(self.length, np.bool_)
    return TrainingRecord(
      arrays={"tokens": row, "is_target": is_target, **self.no_image},
      num_truncated=0,
    )
