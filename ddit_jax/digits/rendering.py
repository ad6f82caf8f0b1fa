"""Images of scenes: handwritten glyphs, enlarged and coloured, over black."""

import colorsys
import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float32, UInt8

from ddit_jax.digits.scenes import Scene, SceneObject
from ddit_jax.digits.world import HUES, Handwriting, World

_GLYPH_SIZE = 8
_FULL_INK = 16
_CHUNK = 1024  # scenes rendered at once; limits memory to megabytes


def render_all(
  scenes: Sequence[Scene], world: World, writing: Handwriting
) -> UInt8[np.ndarray, "scenes canvas canvas 3"]:
  """The images of many scenes.

  Each glyph is enlarged to its cell by bicubic interpolation directly onto
  the canvas grid, so a cell may fall between pixels; a pixel belongs to the
  cell if its centre does. Ink / 16 is the opacity over black. Sampled cells
  neither overlap nor leave the canvas. Where given cells overlap, the brighter
  value of each channel wins; parts outside the canvas are cropped.
  """
  images = np.empty((len(scenes), world.canvas, world.canvas, 3), np.uint8)
  for start in range(0, len(scenes), _CHUNK):
    chunk = scenes[start : start + _CHUNK]
    light = np.zeros((len(chunk), *images.shape[1:]), np.float32)
    for index in range(max(len(scene.objects) for scene in chunk)):
      rows = [r for r, s in enumerate(chunk) if index < len(s.objects)]
      objects = [chunk[r].objects[index] for r in rows]
      light[rows] = np.maximum(light[rows], _light(objects, world, writing))
    images[start : start + len(chunk)] = np.rint(255 * light)
  return images


def _light(
  objects: Sequence[SceneObject], world: World, writing: Handwriting
) -> Float32[np.ndarray, "objects canvas canvas 3"]:
  """Each object alone over black, in [0, 1]."""
  ink = writing.images[[o.glyph for o in objects]] / np.float32(_FULL_INK)
  across = _enlargement(np.array([o.x for o in objects]), world)
  down = _enlargement(np.array([o.y for o in objects]), world)
  alpha = np.clip(down @ ink @ across.transpose(0, 2, 1), 0, 1)
  color = _palette(world.saturation)[[o.color for o in objects]]
  return alpha[..., None] * color[:, None, None]


@functools.cache
def _palette(saturation: float) -> Float32[np.ndarray, "colors 3"]:
  """RGB in [0, 1] of every colour at full value."""
  return np.array(
    [colorsys.hsv_to_rgb(hue / 360, saturation, 1.0) for hue in HUES],
    np.float32,
  )


def _enlargement(
  centers: Float[np.ndarray, " n"], world: World
) -> Float32[np.ndarray, "n canvas 8"]:
  """Weights from glyph pixels to canvas pixels along one axis.

  Bicubic convolution with a = -1/2, renormalised at the glyph's border as in
  Pillow's BICUBIC; zero outside the cell. Pillow itself cannot place a cell
  between pixels.

  Args:
    centers: centres of the cells in pixels.
    world: the sizes.
  """
  pixels = np.arange(world.canvas) + 0.5
  left = centers[:, None] - world.digit_size / 2
  positions = (pixels - left) * (_GLYPH_SIZE / world.digit_size)
  is_inside = (positions >= 0) & (positions < _GLYPH_SIZE)
  distance = np.abs(positions[..., None] - (np.arange(_GLYPH_SIZE) + 0.5))
  weights = _cubic_kernel(distance)
  total = weights.sum(axis=-1, keepdims=True)
  weights = np.divide(
    weights, total, out=np.zeros_like(weights), where=is_inside[..., None]
  )
  return weights.astype(np.float32)


def _cubic_kernel(
  distance: Float[np.ndarray, "*dims"],
) -> Float[np.ndarray, "*dims"]:
  """Keys' cubic convolution kernel (1981) with a = -1/2."""
  near = (1.5 * distance - 2.5) * distance**2 + 1
  far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
  return np.where(distance < 1, near, np.where(distance < 2, far, 0.0))
