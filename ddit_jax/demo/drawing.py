"""The tab Draw: its fields to a job, and images as they form."""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8
from markupsafe import Markup
from PIL import Image

from ddit_jax.demo.watching import Watch
from ddit_jax.errors import InputError, preparing
from ddit_jax.pipelines.edit_inputs import edited_images, masks
from ddit_jax.pipelines.image_pipeline import ImagePipeline
from ddit_jax.pipelines.inputs import sample_config
from ddit_jax.report.page import image_source
from ddit_jax.serving.engine import ImageGroup, ImageRow
from ddit_jax.serving.messages import Limits, image_job, read_image

# Stages of the first image that are kept beside the last one.
_NUM_STAGES = 7
# Pixels of their longer side, at most.
_THUMBNAIL = 128


class Forming(Watch):
  """Images of one job on their way.

  Args:
    num_images: of the job.
    num_steps: of each image.

  Attributes:
    step: steps done.
    num_steps: of each image.
    images: as they are, by place; None before their first step.
    stages: (steps done, image) of the first image, at even distances.
  """

  def __init__(self, num_images: int, num_steps: int):
    super().__init__()
    self.step, self.num_steps = 0, num_steps
    self.images: list[np.ndarray | None] = [None] * num_images
    self.stages: list[tuple[int, np.ndarray]] = []
    kept = np.linspace(0, num_steps - 1, min(_NUM_STAGES, num_steps))
    self._kept = set(kept.round().astype(int).tolist())

  def see(self, place: int, step: int, image: np.ndarray) -> bool:
    """An image after a step; whether anybody wants it."""
    self.images[place], self.step = image, step + 1
    if place == 0 and step in self._kept:
      self.stages.append((step + 1, image))
    return self.tell()


def drawing_job(
  fields: Mapping[str, Any],
  pipeline: ImagePipeline,
  limits: Limits,
  *,
  edited: Mapping[str, Image.Image] | None = None,
  strength: float = 1.0,
) -> tuple[ImageGroup, list[ImageRow], Forming]:
  """The job of what a user asks for, watched.

  Args:
    fields: of /v1/images/generations; None stands for a default.
    pipeline: draws.
    limits: what may be asked for.
    edited: "image" to change and, with a mask, "mask_image".
    strength: of the change.

  Raises:
    InputError: it cannot be drawn.
  """
  fields = {name: x for name, x in fields.items() if x is not None}
  group, rows = image_job(fields, pipeline, limits)
  if edited:
    group, rows = _editing(group, rows, pipeline, edited, strength)
  sampling = sample_config(pipeline.sample, dict(group.settings)).image
  with preparing():
    sigmas = sampling.edit_sigmas() if edited else sampling.sigmas()
  forming = Forming(len(rows), len(sigmas) - 1)
  watched = [
    dataclasses.replace(row, watch=functools.partial(forming.see, place))
    for place, row in enumerate(rows)
  ]
  return group, watched, forming


def _editing(
  group: ImageGroup,
  rows: list[ImageRow],
  pipeline: ImagePipeline,
  edited: Mapping[str, Image.Image],
  strength: float,
) -> tuple[ImageGroup, list[ImageRow]]:
  """The job with an image to change."""
  settings = {**dict(group.settings), "image.strength": strength}
  sample_config(pipeline.sample, settings)
  image = native(edited["image"], group.size)
  given = {"image": edited_images(image, group.size, 1)[0]}
  if "mask_image" in edited:
    given["mask_image"] = masks(edited["mask_image"], group.size, 1)[0]
  group = dataclasses.replace(
    group, settings=tuple(sorted(settings.items())), given=tuple(given)
  )
  return group, [dataclasses.replace(row, **given) for row in rows]


def stages_html(stages: Sequence[tuple[int, np.ndarray]]) -> str:
  """Small pictures of a forming image, side by side, with their steps."""
  if not stages:
    return ""
  figures = (
    Markup(
      '<figure><img src="{}" alt="after step {}"><figcaption>{}</figcaption>'
      "</figure>"
    ).format(image_source(_thumbnail(image)), step, step)
    for step, image in stages
  )
  return Markup(
    '<p>How the first one formed, by step:</p><div class="ddit-stages">{}</div>'
  ).format(Markup("").join(figures))


def _thumbnail(image: np.ndarray) -> np.ndarray:
  small = Image.fromarray(image)
  small.thumbnail((_THUMBNAIL, _THUMBNAIL))
  return np.asarray(small)


def edited_parts(
  value: Mapping[str, Any] | None, limits: Limits
) -> dict[str, Image.Image]:
  """What lies in the editor: nothing, an image, or an image with a mask.

  Args:
    value: of Gradio's image editor, files by part; painted is what the layers
      cover.
    limits: of the pixels.

  Raises:
    InputError: a file cannot be read, or something is painted on no image.
  """
  value = value or {}
  painted = None
  for path in value.get("layers") or ():
    _, alpha = _opened(path, limits)
    painted = alpha if painted is None else painted | alpha
  is_painted = painted is not None and painted.any()
  image = is_visible = None
  if value.get("background") is not None:
    image, is_visible = _opened(value["background"], limits)
  if image is None or not is_visible.any():
    if is_painted:
      raise InputError(
        "something is painted, but on no image: put in the image to change"
      )
    return {}
  if not is_painted:
    return {"image": image}
  return {"image": image, "mask_image": Image.fromarray(painted)}


def _opened(
  path: str, limits: Limits
) -> tuple[Image.Image, Bool[np.ndarray, "height width"]]:
  """A file's image, and where it is not wholly transparent."""
  data = pathlib.Path(path).read_bytes()
  # Refuses what is too large or no image.
  shown = read_image(data, "image", limits)
  with Image.open(path) as image:
    return shown, np.asarray(image.convert("RGBA"))[..., 3] > 0


def enlarged(
  image: UInt8[np.ndarray, "height width 3"], least_side: int = 512
) -> UInt8[np.ndarray, "large_height large_width 3"]:
  """An image in which one can paint: a whole multiple, pixel by pixel."""
  times = -(-least_side // max(image.shape[:2]))
  return image.repeat(times, axis=0).repeat(times, axis=1)


def native(
  image: Image.Image, size: tuple[int, int]
) -> Image.Image | np.ndarray:
  """The original of what `enlarged` gave for this size; others as they are."""
  pixels = np.asarray(image)
  times = pixels.shape[0] // size[0]
  if times < 1:
    return image
  original = pixels[::times, ::times]
  if original.shape[:2] != size:
    return image
  again = original.repeat(times, axis=0).repeat(times, axis=1)
  return original if np.array_equal(again, pixels) else image
