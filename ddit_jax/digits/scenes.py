"""A scene of coloured digits: drawn at random, and rendered."""

import collections
import colorsys
import dataclasses
import functools
import itertools
from collections.abc import Sequence

import numpy as np

from ddit_jax.digits import world as compositions
from ddit_jax.digits import world as relations
from ddit_jax.digits.world import Handwriting, World

Contents = list[tuple[int, int]]  # (digit, index of colour) of every thing

# The kinds of scene and the least number of objects each needs.
_LEAST_OBJECTS = {
  "single": 1,
  "two": 2,
  "counting": 2,
  "position": 2,
  "color_attr": 2,
  "several": 3,
}
SCENE_KINDS = tuple(_LEAST_OBJECTS)
PARTNER_SHARE = 0.4
_SINGLE_SHARE = 0.2
_NUM_DIGITS = len(compositions.DIGIT_WORDS)
_NUM_COLORS = len(compositions.COLORS)


def scene_kinds(world: World) -> tuple[str, ...]:
  """The kinds of scene the world has room for."""
  return tuple(
    kind for kind, least in _LEAST_OBJECTS.items() if least <= world.max_objects
  )


def draw_kind(world: World, rng: np.random.Generator) -> str:
  """A kind of scene: a fifth single, the others equally often."""
  kinds = scene_kinds(world)[1:]
  if not kinds or rng.random() < _SINGLE_SHARE:
    return "single"
  return kinds[rng.integers(len(kinds))]


def partner_prob(world: World) -> float:
  """How often two digits must be partners, given that digits differ.

  Scenes of kind "counting" cannot have partners, so the others have them
  more often: in all, PARTNER_SHARE of the multi-object scenes.
  """
  num_kinds = len(scene_kinds(world)[1:])
  return PARTNER_SHARE * num_kinds / (num_kinds - 1)


def has_partners(digits: tuple[int, ...]) -> bool:
  """True if some digit k appears with (k + 3) mod 10."""
  return any((digit + 3) % _NUM_DIGITS in digits for digit in digits)


def draw_contents(
  kind: str,
  rng: np.random.Generator,
  *,
  max_objects: int,
  is_held_out: bool,
  are_partners: bool | None = None,
) -> Contents:
  """Digits and colours for one scene of this kind.

  Args:
    kind: one of SCENE_KINDS.
    rng: source of every draw.
    max_objects: most things, at least what the kind needs.
    is_held_out: if True exactly one composition is held out, the one the
      kind asks for: the colour of a digit ("single", "color_attr"), the
      count ("counting") or the pair of digits (the others). If False none.
    are_partners: True forces a digit k beside (k + 3) mod 10, False forbids
      it, None leaves it to chance.
  """
  if kind == "single":
    return [_draw_pair(rng, is_held_out)]
  if kind == "counting":
    choices = _counts(is_held_out, max_objects)
    digit, count = choices[rng.integers(len(choices))]
    return [(digit, _draw_seen_color(rng, digit)) for _ in range(count)]
  if kind == "color_attr":
    return _draw_color_attr(rng, is_held_out, are_partners)
  digits = _draw_digit_pair(rng, is_held_out, are_partners)
  if kind == "several":
    digits = _add_digits(
      digits, rng, max_objects=max_objects, are_partners=are_partners
    )
  return [(digit, _draw_seen_color(rng, digit)) for digit in digits]


@functools.cache
def _colored_digits(is_held_out: bool) -> Contents:
  return [
    pair
    for pair in compositions.PAIRS
    if compositions.is_held_out_pair(*pair) == is_held_out
  ]


@functools.cache
def _counts(is_held_out: bool, max_count: int) -> list[tuple[int, int]]:
  return [
    (digit, count)
    for digit, count in compositions.COUNTS
    if compositions.is_held_out_count(digit, count) == is_held_out
    and count <= max_count
  ]


@functools.cache
def _digit_pairs(
  is_held_out: bool, are_partners: bool | None
) -> list[tuple[int, int]]:
  # Partners 1 and 4, 6 and 9 are themselves held out, and no other held-out
  # pair are partners: there the wish for partners has no say.
  return [
    pair
    for pair in compositions.DIGIT_PAIRS
    if compositions.is_held_out_digits(*pair) == is_held_out
    and (is_held_out or are_partners in (None, has_partners(pair)))
  ]


def _draw_pair(rng, is_held_out: bool) -> tuple[int, int]:
  pairs = _colored_digits(is_held_out)
  return pairs[rng.integers(len(pairs))]


def _draw_seen_color(rng, digit: int) -> int:
  colors = compositions.SEEN_COLORS[digit]
  return colors[rng.integers(len(colors))]


def _draw_digit_pair(rng, is_held_out, are_partners) -> tuple[int, ...]:
  pairs = _digit_pairs(is_held_out, are_partners)
  first, second = pairs[rng.integers(len(pairs))]
  return (first, second) if rng.random() < 0.5 else (second, first)


def _draw_color_attr(rng, is_held_out, are_partners) -> Contents:
  """Two digits of a seen pair in two different colours, in random order."""
  while True:
    digits = _draw_digit_pair(rng, False, are_partners)
    colors = [_draw_seen_color(rng, digit) for digit in digits]
    if is_held_out:
      colors[0] = int(rng.integers(_NUM_COLORS))
    is_as_asked = (
      compositions.is_held_out_pair(digits[0], colors[0]) == is_held_out
    )
    if is_as_asked and colors[0] != colors[1]:
      contents = list(zip(digits, colors, strict=True))
      return contents if rng.random() < 0.5 else contents[::-1]


def _add_digits(digits, rng, *, max_objects, are_partners) -> tuple[int, ...]:
  """Two digits and one or two more that bring no new held-out composition."""
  num_held_out = _num_held_out(digits)
  num_more = int(rng.integers(1, max_objects - 1))
  while True:
    more = rng.integers(_NUM_DIGITS, size=num_more).tolist()
    candidate = (*digits, *more)
    if _num_held_out(candidate) != num_held_out:
      continue
    if are_partners is False and has_partners(candidate):
      continue
    return candidate


def _num_held_out(digits: tuple[int, ...]) -> int:
  """How many held-out pairs of digits and held-out counts appear."""
  counts = collections.Counter(digits)
  pairs = itertools.combinations(counts, 2)
  return sum(itertools.starmap(compositions.is_held_out_digits, pairs)) + sum(
    itertools.starmap(compositions.is_held_out_count, counts.items())
  )


# Layouts drawn at once, by number of things. One in about 3, 30 or 1,000
# keeps its cells apart (and one in about 20 of two in a given relation).
_CANDIDATES = {1: 1, 2: 64, 3: 256, 4: 4096}
ANY_RELATION = "any"


def draw_centers(
  count: int,
  world: World,
  rng: np.random.Generator,
  *,
  relation: str | None = None,
) -> np.ndarray:
  """Centres (x, y) of `count` cells: float64 [count, 2], pixels from the top
  left corner.

  Uniform over all layouts whose cells lie on the canvas, at least
  `world.gap` apart on some axis.

  Args:
    count: 1 to `world.max_objects`.
    world: the sizes.
    rng: source of every draw.
    relation: of the first thing to the second, one of relations.RELATIONS,
      or ANY_RELATION: then the two are not on a diagonal.
  """
  if world.is_one_digit:
    return world.canvas / 2 + rng.uniform(
      -world.jitter_px, world.jitter_px, (1, 2)
    )
  margin = world.digit_size / 2
  apart = world.digit_size + world.gap
  while True:
    centers = rng.uniform(
      margin, world.canvas - margin, (_CANDIDATES[count], count, 2)
    )
    for first, second in itertools.combinations(range(count), 2):
      offsets = np.abs(centers[:, first] - centers[:, second])
      centers = centers[offsets.max(axis=1) >= apart]
    for candidate in centers:
      if relation is None or _is_related(candidate, relation):
        return candidate


def _is_related(centers: np.ndarray, relation: str) -> bool:
  found = relations.clear_relation(*(centers[0] - centers[1]))
  return found is not None and relation in (ANY_RELATION, found)


SCENE_KINDS_of_scenes = SCENE_KINDS
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
  centers = draw_centers(count, world, rng, relation=relation).tolist()
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
    kind = draw_kind(world, rng)
  elif kind not in scene_kinds(world):
    raise ValueError(
      f"there is no scene of kind {kind!r} with at most {world.max_objects} "
      f"objects; choose one of {scene_kinds(world)}"
    )
  are_partners = None
  if (
    writing.is_training and not held_out and kind not in ("single", "counting")
  ):
    are_partners = bool(rng.random() < partner_prob(world))
  drawn = draw_contents(
    kind,
    rng,
    max_objects=world.max_objects,
    is_held_out=held_out,
    are_partners=are_partners,
  )
  relation = ANY_RELATION if kind == "position" else None
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
