"""Batches of jobs to calls of the pipeline."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from ddit_jax.pipelines.pipeline import Pipeline
from ddit_jax.pipelines.sd3 import Sd3Pipeline


@dataclasses.dataclass(frozen=True)
class ImageGroup:
  """What images drawn in one call have in common.

  Attributes:
    size: (height, width) in pixels.
    settings: changes of the sampling config, (dotted name, value) in order.
  """

  size: tuple[int, int]
  settings: tuple[tuple[str, Any], ...]


@dataclasses.dataclass(frozen=True)
class ImageRow:
  """One image to draw.

  Attributes:
    prompt: what to draw.
    negative_prompt: what not.
    seed: of its noise.
  """

  prompt: str
  negative_prompt: str
  seed: int


@dataclasses.dataclass(frozen=True)
class TextGroup:
  """What texts written in one call have in common, see `ImageGroup`."""

  settings: tuple[tuple[str, Any], ...]


@dataclasses.dataclass(frozen=True, eq=False)
class TextRow:
  """One text to write.

  Attributes:
    image: that it is about.
    prompt: its beginning.
    seed: of its draws.
  """

  image: UInt8[np.ndarray, "side side 3"]
  prompt: str
  seed: int


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
    count = len(rows)
    if count > 1:
      rows = rows + rows[-1:] * (self.batch_size - count)
    options = {
      "sample": {**dict(group.settings), "batch_size": self.batch_size},
      "indices": [row.seed for row in rows],
    }
    prompts = [row.prompt for row in rows]
    if isinstance(group, TextGroup):
      images = np.stack([row.image for row in rows])
      return self.pipeline.complete(images, prompts, **options)[:count]
    drawn = self.pipeline.text_to_image(
      prompts,
      negative_prompt=[row.negative_prompt for row in rows],
      size=group.size,
      **options,
    )
    return drawn.images[:count]
