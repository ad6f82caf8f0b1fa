"""Images to change and masks that callers give, in the size of the drawing."""

import logging
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image, ImageOps

from ddit_jax.errors import InputError
from ddit_jax.pipelines.inputs import as_array, as_uint8, upright

_log = logging.getLogger(__name__)


def edited_images(
  image: Any, size: tuple[int, int], num_prompts: int
) -> UInt8[np.ndarray, "prompts height width 3"]:
  """The image that each prompt changes.

  Args:
    image: one for all prompts or a list of one each: RGB arrays (height, width,
      3), uint8 or floats in [0, 1], or Pillow images, which are resized; of
      another aspect ratio they lose their edges, which is logged.
    size: (height, width) in pixels.
    num_prompts: number of prompts.

  Raises:
    InputError: another shape, type or number.
  """
  images = _one_each(image, num_prompts, 3, "image")
  found = []
  for one in images:
    if isinstance(one, Image.Image):
      one = np.asarray(_fitted(upright(one, "image"), size, "image"))
    array = as_array(one, "image")
    if array.shape != (*size, 3):
      raise InputError(
        f"image has the shape {array.shape}, the drawing is {size[0]} x "
        f"{size[1]} pixels: give RGB of that size, size=, or a Pillow image"
      )
    found.append(as_uint8(array, "image"))
  return np.stack(found)


def masks(
  mask: Any, size: tuple[int, int], num_prompts: int
) -> Float32[np.ndarray, "prompts height width"]:
  """The mask of each prompt's image: 1 is drawn anew, 0 is kept.

  Args:
    mask: as in `edited_images`, but (height, width), bool or grey; from half
      of white on, a pixel is drawn anew, as in diffusers.
    size: (height, width) in pixels.
    num_prompts: number of prompts.

  Raises:
    InputError: another shape, type or number, or a mask that keeps all.
  """
  found = []
  for one in _one_each(mask, num_prompts, 2, "mask_image"):
    if isinstance(one, Image.Image):
      one = upright(one, "mask_image").convert("L")
      one = np.asarray(_fitted(one, size, "mask_image"))
    array = as_array(one, "mask_image")
    if array.shape != size:
      raise InputError(
        f"mask_image has the shape {array.shape}, the drawing is {size[0]} x "
        f"{size[1]} pixels: give grey pixels of that size, or a Pillow image"
      )
    if array.dtype != bool:
      array = as_uint8(array, "mask_image") >= 128
    if not array.any():
      raise InputError("mask_image is black: white is what is drawn anew")
    found.append(array.astype(np.float32))
  return np.stack(found)


def _one_each(given: Any, num_prompts: int, ndim: int, name: str) -> list[Any]:
  """A list of one image for each prompt."""
  is_single = isinstance(given, Image.Image)
  if isinstance(given, np.ndarray):
    is_single = given.ndim == ndim
  if is_single:
    return [given] * num_prompts
  try:
    given = list(given)
  except TypeError as error:
    raise InputError(f"{name} is not an image: {given!r}") from error
  if len(given) != num_prompts:
    raise InputError(
      f"{name} has {len(given)} images for {num_prompts} prompts: give one "
      "for all, or one each"
    )
  return given


def _fitted(
  image: Image.Image, size: tuple[int, int], name: str
) -> Image.Image:
  height, width = size
  if image.width * height != image.height * width:
    _log.warning(
      "%s of %d x %d pixels loses its edges to fit %d x %d",
      name,
      image.height,
      image.width,
      height,
      width,
    )
  return ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)
