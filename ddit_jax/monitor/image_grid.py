"""Arrays as images, alone and in a grid with labels."""

import base64
import io
import math
import textwrap
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

_TILE, _MARGIN = 256, 8
_FONT_SIZE, _LINE_HEIGHT = 13, 16
_CHARACTERS, _MAX_LINES = 36, 6


def pillow_image(image: np.ndarray, name: str) -> Image.Image:
  """An array of pixels as a Pillow image.

  Args:
    image: uint8 [height, width, 1 or 3].
    name: of the image, for the error.

  Raises:
    ValueError: an array of another kind.
  """
  is_valid = (
    isinstance(image, np.ndarray)
    and image.dtype == np.uint8
    and image.ndim == 3
    and image.shape[2] in (1, 3)
    and image.size > 0
  )
  if not is_valid:
    seen = f"{getattr(image, 'dtype', type(image))} {np.shape(image)}"
    raise ValueError(
      f"image {name} is {seen}: pass uint8 [height, width, 1 or 3]"
    )
  pixels = image[:, :, 0] if image.shape[2] == 1 else image
  return Image.fromarray(np.ascontiguousarray(pixels))


def png_base64(image: np.ndarray, name: str) -> str:
  """A PNG file in base64; arguments and errors as of `pillow_image`."""
  buffer = io.BytesIO()
  pillow_image(image, name).save(buffer, format="PNG")
  return base64.b64encode(buffer.getvalue()).decode()


def labelled_grid(
  images: UInt8[np.ndarray, "number height width 3"],
  labels: Sequence[str],
  *,
  num_columns: int = 4,
) -> UInt8[np.ndarray, "rows columns 3"]:
  """A grid of tiles, row by row; long paragraphs of labels end in "…".

  Args:
    images: shown 256 pixels wide.
    labels: as many texts; a line break starts a paragraph.
    num_columns: tiles side by side.

  Raises:
    ValueError: none, or another number of labels.
  """
  if not len(images) or len(images) != len(labels):
    raise ValueError(f"{len(images)} images and {len(labels)} labels")
  lines = [_wrapped(label) for label in labels]
  tile_height = round(_TILE * images.shape[1] / images.shape[2])
  text_height = _LINE_HEIGHT * max(map(len, lines))
  row_height = tile_height + text_height + 2 * _MARGIN
  num_columns = min(num_columns, len(images))
  num_rows = math.ceil(len(images) / num_columns)
  width = num_columns * (_TILE + _MARGIN) + _MARGIN
  grid = Image.new("RGB", (width, num_rows * row_height), "white")
  draw = ImageDraw.Draw(grid)
  font = ImageFont.load_default(_FONT_SIZE)
  for number, pixels in enumerate(images):
    row, column = divmod(number, num_columns)
    left = _MARGIN + column * (_TILE + _MARGIN)
    top = row * row_height + _MARGIN
    tile = Image.fromarray(pixels).resize((_TILE, tile_height), Image.NEAREST)
    grid.paste(tile, (left, top))
    for index, line in enumerate(lines[number]):
      below = top + tile_height + index * _LINE_HEIGHT
      draw.text((left, below), line, fill="black", font=font)
  return np.asarray(grid)


def _wrapped(label: str) -> list[str]:
  wrap = textwrap.TextWrapper(
    _CHARACTERS, max_lines=_MAX_LINES, placeholder=" …"
  )
  return [
    line for part in label.split("\n") for line in wrap.wrap(part) or [""]
  ]
