"""What callers of a pipeline give: checked, and brought into one form."""

import dataclasses
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8, UInt32
from PIL import Image

from ddit_jax.config.load import overridden
from ddit_jax.data.image import (
  covering_size,
  padded_square,
  resized_crop,
  upright_rgb,
)
from ddit_jax.data.image_header import MAX_PIXELS
from ddit_jax.data.tokenizers import Tokenizer
from ddit_jax.errors import InputError, first_few
from ddit_jax.experiment.config import SampleConfig
from ddit_jax.prng import MAX_SEED
from ddit_jax.sampling.text_options import TextSampling

_log = logging.getLogger(__name__)

# What `image_batch` takes.
ImagesLike = np.ndarray | Sequence[np.ndarray | Image.Image]
# Dotted names of fields of `SampleConfig` to their values.
Changes = Mapping[str, Any]


def image_batch(
  images: Any, side: int, crop: str = "centre"
) -> UInt8[np.ndarray, "images side side 3"]:
  """The images that a model reads.

  Args:
    images: an array [images, side, side, 3], or a list of arrays [side, side,
      3] and Pillow images. Arrays are uint8, or floats in [0, 1], which are
      rounded to 255ths. Pillow images of any size and mode become a square in
      RGB, as image files do in training.
    side: of the images in pixels.
    crop: "centre" or "pad", see `ImageConfig`.

  Raises:
    InputError: another shape or type, floats outside [0, 1], or no image.
  """
  if isinstance(images, list | tuple):
    if not images:
      raise InputError("there are no images: give at least one")
    pixels = [
      _image(x, side, crop, f"images[{i}]") for i, x in enumerate(images)
    ]
    if crop == "centre":
      _log_cropped(images)
    return np.stack(pixels)
  if isinstance(images, Image.Image):
    raise InputError("images is a single Pillow image: give a list of images")
  array = as_array(images, "images")
  if array.ndim != 4 or array.shape[1:] != (side, side, 3) or not len(array):
    raise InputError(
      f"images has the shape {array.shape}: give an array of RGB images, "
      f"(images, {side}, {side}, 3), or a list of images"
    )
  return as_uint8(array, "images")


def _image(
  image: Any, side: int, crop: str, name: str
) -> UInt8[np.ndarray, "side side 3"]:
  if isinstance(image, Image.Image):
    return _square(image, side, crop, name)
  array = as_array(image, name)
  if array.shape != (side, side, 3):
    raise InputError(
      f"{name} has the shape {array.shape}, this model reads RGB images of "
      f"({side}, {side}, 3): resize it, or give a Pillow image"
    )
  return as_uint8(array, name)


def _log_cropped(images: Sequence[Any]) -> None:
  """Says how many images lose their edges."""
  cropped = [
    number
    for number, image in enumerate(images)
    if isinstance(image, Image.Image) and image.width != image.height
  ]
  if cropped:
    _log.warning(
      "%d of %d images (%s) are cropped to their centre square",
      len(cropped),
      len(images),
      first_few(cropped),
    )


def upright(image: Image.Image, name: str) -> Image.Image:
  """An image in RGB as training reads it; raises InputError."""
  if image.mode in ("I", "F"):
    raise InputError(
      f"{name} has Pillow's mode {image.mode}, whose range is not known: "
      "convert it to RGB"
    )
  try:
    image.load()
    return upright_rgb(image)
  # A file that was opened is decoded here, and may be damaged in any way.
  except Exception as error:
    cause = " ".join(str(error).split())
    raise InputError(f"{name} cannot be decoded: {cause}") from error


def _square(
  image: Image.Image, side: int, crop: str, name: str
) -> UInt8[np.ndarray, "side side 3"]:
  """What training's transform makes of an image."""
  image = upright(image, name)
  if crop == "pad":
    return np.asarray(padded_square(image, side))
  width, height = covering_size(image.size, (side, side))
  if width * height > MAX_PIXELS:
    raise InputError(
      f"{name} of {image.width} x {image.height} becomes {width} x {height} "
      f"pixels, at most {MAX_PIXELS} are allowed: crop it"
    )
  corner = ((width - side) // 2, (height - side) // 2)
  return np.asarray(resized_crop(image, (side, side), corner))


def check_latents(latents: Any, channels: int) -> None:
  """Raises InputError unless given floats [images, rows, columns, channels]."""
  shape, kind = np.shape(latents), np.asarray(latents).dtype
  is_float = jnp.issubdtype(kind, jnp.floating)
  if len(shape) != 4 or shape[-1] != channels or not is_float:
    raise InputError(
      f"latents has the shape {shape} and the type {kind}: give floats "
      f"(images, rows, columns, {channels}), such as those of `encode`"
    )


def as_array(value: Any, name: str) -> np.ndarray:
  """An array of what is meant as pixels; raises InputError."""
  if isinstance(value, str | bytes | os.PathLike):
    raise InputError(
      f"{name} is {str(value)!r:.80}: give its pixels, for example "
      "PIL.Image.open of the file"
    )
  try:
    return np.asarray(value)
  except (TypeError, ValueError, RuntimeError) as error:
    cause = " ".join(str(error).split())
    raise InputError(f"{name} is not an array of pixels: {cause}") from error


def as_uint8(array: np.ndarray, name: str) -> UInt8[np.ndarray, "..."]:
  """Pixels from uint8, or floats in [0, 1]; raises InputError."""
  if array.dtype == np.uint8:
    return array
  if not jnp.issubdtype(array.dtype, jnp.floating):
    raise InputError(
      f"{name} has the type {array.dtype}: give uint8 from 0 to 255, or floats "
      "from 0 to 1"
    )
  array = array.astype(np.float64)
  low, high = array.min(), array.max()
  # Also refuses NaN.
  if not (low >= 0 and high <= 1):
    raise InputError(
      f"{name} has floats from {low:g} to {high:g}: give floats from 0 to 1, "
      "or uint8 from 0 to 255"
    )
  return np.rint(array * 255).astype(np.uint8)


def text_list(texts: Any, name: str) -> list[str]:
  """Texts, one for each row.

  Args:
    texts: an iterable of strings.
    name: of the argument, for messages.

  Raises:
    InputError: a single string, no text, or something that is not a text.
  """
  if isinstance(texts, str | bytes):
    raise InputError(f"{name} is a single text: give a list, [{texts!r}]")
  try:
    texts = list(texts)
  except TypeError as error:
    raise InputError(
      f"{name} must be a list of texts, got {texts!r}"
    ) from error
  if not texts:
    raise InputError(f"there are no {name}: give at least one")
  for number, text in enumerate(texts):
    check_text(text, f"{name}[{number}]")
  return texts


def check_count(texts: Sequence[str], num_images: int, name: str) -> None:
  """Raises InputError unless there is one text per image."""
  if len(texts) != num_images:
    raise InputError(
      f"there are {num_images} images for {len(texts)} {name}: give one per "
      "image"
    )


def check_text(text: Any, name: str) -> None:
  """Raises InputError unless `text` is a string of Unicode characters."""
  if not isinstance(text, str):
    raise InputError(f"{name} must be a text, got {text!r}")
  try:
    text.encode()
  except UnicodeEncodeError as error:
    raise InputError(f"{name} is not Unicode: {error}") from error


def check_template(
  tokens: np.ndarray,
  prompt_mask: np.ndarray,
  *,
  num_images: int,
  longest: int | None,
  tokenizer: Tokenizer,
) -> None:
  """Raises InputError unless texts can be filled in around a prompt.

  Args:
    tokens: ids, int [images, length]; only those of the prompt are checked.
    prompt_mask: bool [images, length].
    num_images: number of images.
    longest: tokens of the longest text; None for any.
    tokenizer: its ids except the mask may be given.
  """
  shapes = np.shape(tokens), np.shape(prompt_mask)
  if shapes[0] != shapes[1] or len(shapes[0]) != 2:
    raise InputError(
      f"tokens has the shape {shapes[0]} and prompt_mask {shapes[1]}: give "
      "both as (images, length)"
    )
  num_texts, length = shapes[0]
  if num_texts != num_images:
    raise InputError(
      f"there are {num_images} images for {num_texts} texts: give one image "
      "per text"
    )
  if longest is not None and length > longest:
    raise InputError(
      f"texts of {length} tokens are too long, this model's have {longest}"
    )
  kinds = np.asarray(tokens).dtype, np.asarray(prompt_mask).dtype
  if not np.issubdtype(kinds[0], np.integer) or kinds[1] != np.bool_:
    raise InputError(
      f"tokens has the type {kinds[0]} and prompt_mask {kinds[1]}: give "
      "integers and booleans"
    )
  given = np.unique(np.asarray(tokens)[np.asarray(prompt_mask)])
  is_id = (given >= 0) & (given < tokenizer.vocab_size)
  wrong = given[~is_id | (given == tokenizer.mask_id)]
  if wrong.size:
    raise InputError(
      f"the prompts have the tokens {first_few(wrong)}: give ids from 0 to "
      f"{tokenizer.vocab_size - 1}, without the mask {tokenizer.mask_id}"
    )


def row_indices(
  indices: Sequence[int] | None, num_rows: int
) -> UInt32[np.ndarray, " rows"]:
  """The index of each row; 0, 1, ... if None.

  Raises:
    InputError: not one integer in 0 to 2^32 - 1 per row.
  """
  if indices is None:
    return np.arange(num_rows, dtype=np.uint32)
  array = np.asarray(indices)
  is_integer = np.issubdtype(array.dtype, np.integer)
  if array.shape != (num_rows,) or not is_integer:
    raise InputError(
      f"indices must be {num_rows} integers, one per row, got {indices!r}"
    )
  if array.min() < 0 or array.max() > MAX_SEED:
    raise InputError(f"indices must be in 0 to {MAX_SEED}, got {indices!r}")
  return array.astype(np.uint32)


def image_sides(size: int | tuple[int, int]) -> tuple[int, int]:
  """(height, width) of a size, where one integer means a square.

  Raises:
    InputError: anything but one or two integers.
  """
  sides = tuple(size) if isinstance(size, tuple | list) else (size,)
  if len(sides) not in (1, 2) or not all(type(side) is int for side in sides):
    raise InputError(f"size must be a side or (height, width), got {size!r}")
  return sides * 2 if len(sides) == 1 else sides


def sample_config(
  base: SampleConfig, sample: SampleConfig | Changes | None
) -> SampleConfig:
  """A sampling config with some of its fields replaced.

  Args:
    base: the checkpoint's.
    sample: the fields to replace, e.g. {"image.guidance_scale": 2.0}; or a
      whole config in its place; or None. With "text.preset" all others of the
      text sampler start from their defaults.

  Raises:
    InputError: an unknown field, a wrong type or value, or one that the preset
      sets otherwise.
  """
  if isinstance(sample, Mapping):
    if "text.preset" in sample:
      base = dataclasses.replace(base, text=TextSampling())
    base = overridden(base, sample, "sample")
    _check_preset(base.text, sample)
  elif isinstance(sample, SampleConfig):
    base = sample
  elif sample is not None:
    raise InputError(
      "sample must be a SampleConfig or a mapping such as "
      f'{{"image.guidance_scale": 2.0}}, got {sample!r}'
    )
  return base


def _check_preset(text: TextSampling, changes: Changes) -> None:
  """Raises InputError if the preset replaced a value that was given."""
  for key, value in changes.items():
    section, _, name = key.partition(".")
    if section != "text" or name == "preset":
      continue
    alone = overridden(TextSampling(), {name: value}, "sample.text")
    given, found = getattr(alone, name), getattr(text, name)
    if given != found:
      raise InputError(
        f"sample.{key} is {given!r}, but the preset {text.preset!r} sets "
        f"{found!r}: leave one of them out (sample.text.preset='' is none)"
      )
