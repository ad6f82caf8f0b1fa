"""Images of scenes: handwritten glyphs, enlarged and coloured, over black."""

import colorsys
import functools
from collections.abc import Sequence

import numpy as np

from ddit_jax.digits.scenes import Scene, SceneObject
from ddit_jax.digits.world import HUES, Handwriting, World

_GLYPH_SIZE = 8
_FULL_INK = 16
_CHUNK = 1024  # scenes rendered at once; bounds memory to megabytes


def render_all(
  scenes: Sequence[Scene], world: World, writing: Handwriting
) -> np.ndarray:
  """The images of many scenes: uint8 [n, canvas, canvas, 3].

  Each glyph is enlarged to its cell by bicubic interpolation directly onto
  the canvas grid, so a cell may lie between pixels; a pixel belongs to the
  cell if its centre does. Ink / 16 is the opacity over black. Sampled cells
  neither overlap nor leave the canvas. Where given cells overlap, the brighter
  value of each channel wins; what leaves the canvas is cut off.
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
) -> np.ndarray:
  """Each object alone over black: float32 [n, canvas, canvas, 3] in [0, 1]."""
  ink = writing.images[[o.glyph for o in objects]] / np.float32(_FULL_INK)
  across = _enlargement(np.array([o.x for o in objects]), world)
  down = _enlargement(np.array([o.y for o in objects]), world)
  alpha = np.clip(down @ ink @ across.transpose(0, 2, 1), 0, 1)
  color = _palette(world.saturation)[[o.color for o in objects]]
  return alpha[..., None] * color[:, None, None]


@functools.cache
def _palette(saturation: float) -> np.ndarray:
  """RGB in [0, 1] of every colour at full value, float32 [8, 3]."""
  return np.array(
    [colorsys.hsv_to_rgb(hue / 360, saturation, 1.0) for hue in HUES],
    np.float32,
  )


def _enlargement(centers: np.ndarray, world: World) -> np.ndarray:
  """Weights from glyph pixels to canvas pixels along one axis.

  Bicubic convolution with a = -1/2, renormalised at the glyph's border as in
  Pillow's BICUBIC; zero outside the cell. Pillow itself cannot place a cell
  between pixels.

  Args:
    centers: float [n], centres of the cells in pixels.
    world: the sizes.

  Returns:
    float32 [n, canvas, 8].
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


def _cubic_kernel(distance: np.ndarray) -> np.ndarray:
  """Keys' cubic convolution kernel (1981) with a = -1/2."""
  near = (1.5 * distance - 2.5) * distance**2 + 1
  far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
  return np.where(distance < 1, near, np.where(distance < 2, far, 0.0))
