"""A scene of coloured digits: drawn at random, and rendered."""

import colorsys
import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from ddit_jax.digits import compositions, contents, layouts, relations
from ddit_jax.digits.worlds import World
from ddit_jax.digits.writers import Handwriting

SCENE_KINDS = contents.SCENE_KINDS
_GLYPH = 8  # pixels a side of the handwriting
_FULL_INK = 16
_RENDER_CHUNK = 1024  # scenes at once, so that memory stays in megabytes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Thing:
  """One digit on the canvas.

  Attributes:
    digit: 0 to 9.
    color: index into compositions.COLORS.
    x: centre of its cell, pixels from the left edge.
    y: centre of its cell, pixels from the top edge.
    glyph: row of the Handwriting that shows it.
  """

  digit: int
  color: int
  x: float
  y: float
  glyph: int


@dataclasses.dataclass(frozen=True)
class Scene:
  """The things on one canvas, in no meaningful order."""

  things: tuple[Thing, ...]


def relation_between(first: Thing, second: Thing) -> str | None:
  """The clear relation of `first` to `second`; None on a diagonal."""
  return relations.clear_relation(first.x - second.x, first.y - second.y)


def arrange(
  digits_and_colors: Sequence[tuple[int, int]],
  world: World,
  rng: np.random.Generator,
  *,
  writing: Handwriting,
  relation: str | None = None,
) -> Scene:
  """A scene of just these (digit, color): places and glyphs are drawn.

  Args:
    digits_and_colors: one entry a thing, 1 to `world.max_objects`.
    world: the sizes.
    rng: source of every draw.
    writing: whose glyphs to use.
    relation: of the first thing to the second, see layouts.draw_centers.

  Raises:
    ValueError: if the world has no room for so many things.
  """
  count = len(digits_and_colors)
  if not 1 <= count <= world.max_objects:
    raise ValueError(
      f"a scene of {count} digits was asked for, but this world holds 1 to "
      f"{world.max_objects}: choose another world or another prompt"
    )
  centers = layouts.draw_centers(count, world, rng, relation=relation).tolist()
  things = []
  for (digit, color), (x, y) in zip(digits_and_colors, centers, strict=True):
    rows = writing.rows[digit]
    glyph = int(rows[rng.integers(len(rows))])
    things.append(Thing(digit=digit, color=color, x=x, y=y, glyph=glyph))
  return Scene(tuple(things))


def sample_scene(
  world: World,
  rng: np.random.Generator,
  *,
  writing: Handwriting,
  held_out: bool,
  kind: str | None = None,
) -> Scene:
  """A random scene.

  Args:
    world: the sizes.
    rng: source of every draw.
    writing: whose glyphs to use.
    held_out: if False no composition in the scene is held out; if True
      exactly one is, the one the kind of scene asks for.
    kind: one of SCENE_KINDS; None draws one the world has room for.

  Seen scenes by training writers bring a digit k together with (k + 3) mod 10
  more often than chance (contents.PARTNER_SHARE of the multi-object scenes),
  so that some absent digits are likelier guesses than others.

  Raises:
    ValueError: if the kind is unknown or needs more objects than fit.
  """
  if kind is None:
    kind = contents.draw_kind(world, rng)
  elif kind not in contents.scene_kinds(world):
    raise ValueError(
      f"there is no scene of kind {kind!r} with at most {world.max_objects} "
      f"objects; choose one of {contents.scene_kinds(world)}"
    )
  are_partners = None
  if (
    writing.is_training and not held_out and kind not in ("single", "counting")
  ):
    are_partners = bool(rng.random() < contents.partner_prob(world))
  drawn = contents.draw_contents(
    kind,
    rng,
    max_objects=world.max_objects,
    is_held_out=held_out,
    are_partners=are_partners,
  )
  relation = layouts.ANY_RELATION if kind == "position" else None
  return arrange(drawn, world, rng, writing=writing, relation=relation)


def render(scene: Scene, world: World, writing: Handwriting) -> np.ndarray:
  """The image of one scene: uint8 [canvas, canvas, 3]."""
  return render_all([scene], world, writing)[0]


def render_all(
  scenes: Sequence[Scene], world: World, writing: Handwriting
) -> np.ndarray:
  """The images of many scenes: uint8 [n, canvas, canvas, 3].

  Each glyph is enlarged to the cell by bicubic interpolation straight onto
  the canvas grid, so a cell may lie between pixels; a pixel belongs to the
  cell if its centre does. Ink / 16 is the opacity over black. Sampled cells
  never overlap or leave the canvas; if given ones do, the brighter channel
  wins and the rest is cut.
  """
  images = np.empty((len(scenes), world.canvas, world.canvas, 3), np.uint8)
  for start in range(0, len(scenes), _RENDER_CHUNK):
    chunk = scenes[start : start + _RENDER_CHUNK]
    light = np.zeros((len(chunk), *images.shape[1:]), np.float32)
    for place in range(max(len(scene.things) for scene in chunk)):
      rows = [r for r, s in enumerate(chunk) if place < len(s.things)]
      things = [chunk[r].things[place] for r in rows]
      light[rows] = np.maximum(light[rows], _light(things, world, writing))
    images[start : start + len(chunk)] = np.rint(255 * light)
  return images


def _light(
  things: Sequence[Thing], world: World, writing: Handwriting
) -> np.ndarray:
  """Each thing alone over black: float32 [n, canvas, canvas, 3] in [0, 1]."""
  ink = writing.images[[t.glyph for t in things]] / np.float32(_FULL_INK)
  across = _enlargement(np.array([t.x for t in things]), world)
  down = _enlargement(np.array([t.y for t in things]), world)
  alpha = np.clip(down @ ink @ across.transpose(0, 2, 1), 0, 1)
  color = _palette(world.saturation)[[t.color for t in things]]
  return alpha[..., None] * color[:, None, None]


@functools.cache
def _palette(saturation: float) -> np.ndarray:
  """Full-value RGB in [0, 1] of every colour, float32 [8, 3]."""
  return np.array(
    [
      colorsys.hsv_to_rgb(hue / 360, saturation, 1.0)
      for hue in compositions.HUES
    ],
    np.float32,
  )


def _enlargement(centers: np.ndarray, world: World) -> np.ndarray:
  """Weights from glyph pixels to canvas pixels along one axis.

  Bicubic convolution with a = -1/2, renormalised where the glyph ends
  (Pillow's BICUBIC); zero outside the cell.

  Args:
    centers: float [n], centres of the cells in pixels.
    world: the sizes.

  Returns:
    float32 [n, canvas, 8].
  """
  pixels = np.arange(world.canvas) + 0.5
  left = centers[:, None] - world.digit_size / 2
  positions = (pixels - left) * (_GLYPH / world.digit_size)  # glyph pixels
  is_inside = (positions >= 0) & (positions < _GLYPH)
  distance = np.abs(positions[..., None] - (np.arange(_GLYPH) + 0.5))
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
