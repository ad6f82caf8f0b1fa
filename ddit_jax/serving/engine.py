"""Batches of jobs to calls of the pipeline."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int32, UInt8

from ddit_jax.data.text import answer_text
from ddit_jax.pipelines.image_pipeline import Callback
from ddit_jax.pipelines.pipeline import Pipeline
from ddit_jax.pipelines.sd3 import Sd3Pipeline
from ddit_jax.serving.batcher import Unwanted


@dataclasses.dataclass(frozen=True)
class ImageGroup:
  """What images drawn in one call have in common.

  Attributes:
    size: (height, width) in pixels.
    settings: changes of the sampling config, (dotted name, value) in order.
    given: which of `image` and `mask_image` its rows have.
  """

  size: tuple[int, int]
  settings: tuple[tuple[str, Any], ...]
  given: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, eq=False)
class ImageRow:
  """One image to draw.

  Attributes:
    prompt: what to draw.
    negative_prompt: what not.
    seed: of its noise.
    image: to change, of the group's size.
    mask_image: 1 where `image` is drawn anew.
    watch: called after each step with its number and the image as it is; False
      says that nobody wants the row any more.
  """

  prompt: str
  negative_prompt: str
  seed: int
  image: UInt8[np.ndarray, "height width 3"] | None = None
  mask_image: Float32[np.ndarray, "height width"] | None = None
  watch: Callable[[int, np.ndarray], bool] | None = None


@dataclasses.dataclass(frozen=True)
class TextGroup:
  """What texts written in one call have in common, see `ImageGroup`."""

  settings: tuple[tuple[str, Any], ...]


@dataclasses.dataclass(frozen=True, eq=False)
class TextRow:
  """One text to write.

  Attributes:
    image: that it is about.
    tokens: the text; read where `prompt_mask` is True.
    prompt_mask: True where a token is given.
    seed: of its draws.
    watch: as of an `ImageRow`, but called after each network call with their
      number, the tokens and their probabilities.
  """

  image: UInt8[np.ndarray, "side side 3"]
  tokens: Int32[np.ndarray, " length"]
  prompt_mask: Bool[np.ndarray, " length"]
  seed: int
  watch: Callable[[int, np.ndarray, np.ndarray], bool] | None = None


class Engine:
  """One pipeline; all its methods run on the batcher's thread.

  A seed is the index of a row of one fixed draw, so that rows of any requests
  run in one call. Calls have one row or `batch_size`: two programs a group.

  Args:
    pipeline: of a checkpoint.
    batch_size: rows of a full call.
  """

  def __init__(self, pipeline: Pipeline | Sd3Pipeline, batch_size: int):
    self.pipeline = pipeline
    self.batch_size = batch_size

  def run(
    self, group: ImageGroup | TextGroup, rows: list[Any]
  ) -> Sequence[Any]:
    """An image or a text for each row; repeats the last row to fill a batch."""
    wanted, count = rows, len(rows)
    if count > 1:
      rows = rows + rows[-1:] * (self.batch_size - count)
    options = {
      "sample": {**dict(group.settings), "batch_size": self.batch_size},
      "indices": [row.seed for row in rows],
    }
    if isinstance(group, TextGroup):
      return self._texts(rows, wanted, options)
    options |= {
      name: [getattr(row, name) for row in rows] for name in group.given
    }
    drawn = self.pipeline.text_to_image(
      [row.prompt for row in rows],
      negative_prompt=[row.negative_prompt for row in rows],
      size=group.size,
      callback_on_step_end=_showing_images(wanted),
      **options,
    )
    return drawn.images[:count]

  def _texts(
    self, rows: list[TextRow], wanted: list[TextRow], options: dict[str, Any]
  ) -> list[str]:
    """A text for each wanted row."""
    columns = ("image", "tokens", "prompt_mask")
    texts = self.pipeline.infill(
      *(np.stack([getattr(row, name) for row in rows]) for name in columns),
      callback_on_call_end=_showing_texts(wanted),
      **options,
    )
    return [
      answer_text(self.pipeline.tokenizer, tokens, row.prompt_mask)
      for tokens, row in zip(texts.tokens, wanted, strict=False)
    ]


def _showing_images(rows: list[ImageRow]) -> Callback | None:
  """Shows watched rows as they form; None, which is faster, if none is."""
  if not any(row.watch for row in rows):
    return None

  def on_step_end(pipeline, step, time, values):
    del time
    images = pipeline.decode(values["latents"])
    pairs = zip(rows, images, strict=False)
    _check_wanted(
      row.watch is None or row.watch(step, image) for row, image in pairs
    )

  return on_step_end


def _showing_texts(rows: list[TextRow]):
  """As `_showing_images`."""
  if not any(row.watch for row in rows):
    return None

  def on_call_end(pipeline, places, texts):
    del pipeline
    found = zip(texts.calls, texts.tokens, texts.probabilities, strict=True)
    states = dict(zip(places.tolist(), found, strict=True))
    # What is not in this call is finished, and waits for the others.
    _check_wanted(
      row.watch is None or place not in states or row.watch(*states[place])
      for place, row in enumerate(rows)
    )

  return on_call_end


def _check_wanted(is_wanted: Iterable[bool]) -> None:
  """Raises Unwanted if no row is; asks each of them."""
  if not any(list(is_wanted)):
    raise Unwanted
