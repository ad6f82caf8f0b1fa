"""Scenes of coloured digits: which digits, in which colours, and where."""

import collections
import dataclasses
import functools
import itertools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from ddit_jax.digits.world import (
  COLORS,
  COUNTS,
  DIGIT_PAIRS,
  DIGIT_WORDS,
  PAIRS,
  SEEN_COLORS,
  Handwriting,
  World,
  clear_relation,
  is_held_out_count,
  is_held_out_digits,
  is_held_out_pair,
)

_Contents = list[tuple[int, int]]  # (digit, colour index) of every object

# The kinds of scene and the smallest number of objects each needs.
_MIN_OBJECTS = {
  "single": 1,
  "two": 2,
  "counting": 2,
  "position": 2,
  "color_attr": 2,
  "several": 3,
}
SCENE_KINDS = tuple(_MIN_OBJECTS)
_ANY_RELATION = "any"
# Of the multi-object scenes, how many show a digit k beside (k + 3) mod 10.
_PARTNER_FRACTION = 0.4
_SINGLE_FRACTION = 0.2
_NUM_DIGITS = len(DIGIT_WORDS)
# Candidate layouts sampled at once, by number of objects. About one in 3, 30 or
# 1,000 keeps its cells apart (one in 20 for two objects in a given relation).
_NUM_CANDIDATES = {1: 1, 2: 64, 3: 256, 4: 4096}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SceneObject:
  """One digit on the canvas.

  Attributes:
    digit: 0 to 9.
    color: index into `world.COLORS`.
    x: centre of its cell, pixels from the left edge.
    y: centre of its cell, pixels from the top edge.
    glyph: row of the `Handwriting` that shows it.
  """

  digit: int
  color: int
  x: float
  y: float
  glyph: int

  def relation_to(self, other: "SceneObject") -> str | None:
    """The clear relation of this object to another; None on a diagonal."""
    return clear_relation(self.x - other.x, self.y - other.y)


@dataclasses.dataclass(frozen=True)
class Scene:
  """The objects on one canvas, in no meaningful order."""

  objects: tuple[SceneObject, ...]


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
    rng: random generator for all choices.
    writing: whose glyphs to use.
    held_out: if False no composition in the scene is held out; if True
      exactly one is, the one that the kind of scene is about.
    kind: one of SCENE_KINDS; None samples one that fits the world.

  Seen scenes by training writers show a digit k beside (k + 3) mod 10 more
  often than chance (PARTNER_FRACTION of the multi-object scenes), which makes
  some absent digits likelier guesses than others.

  Raises:
    ValueError: the kind is unknown or needs more objects than fit.
  """
  if kind is None:
    kind = _draw_kind(world, rng)
  elif kind not in _scene_kinds(world):
    raise ValueError(
      f"there is no scene of kind {kind!r} with at most {world.max_objects} "
      f"objects; choose one of {_scene_kinds(world)}"
    )
  are_partners = None
  if (
    writing.is_training and not held_out and kind not in ("single", "counting")
  ):
    are_partners = bool(rng.random() < _partner_probability(world))
  contents = _draw_contents(
    kind,
    rng,
    max_objects=world.max_objects,
    is_held_out=held_out,
    are_partners=are_partners,
  )
  relation = _ANY_RELATION if kind == "position" else None
  return arrange(contents, world, rng, writing=writing, relation=relation)


def arrange(
  contents: Sequence[tuple[int, int]],
  world: World,
  rng: np.random.Generator,
  *,
  writing: Handwriting,
  relation: str | None = None,
) -> Scene:
  """A scene of exactly these (digit, colour index); samples places and glyphs.

  Args:
    contents: one entry per object, 1 to `world.max_objects`.
    world: the sizes.
    rng: source of every draw.
    writing: whose glyphs to use.
    relation: of the first object to the second, see `_draw_centers`.

  Raises:
    ValueError: the world has no room for so many objects.
  """
  count = len(contents)
  if not 1 <= count <= world.max_objects:
    raise ValueError(
      f"a scene of {count} digits was requested, but this world holds 1 to "
      f"{world.max_objects}: choose another world or another prompt"
    )
  centers = _draw_centers(count, world, rng, relation=relation).tolist()
  objects = []
  for (digit, color), (x, y) in zip(contents, centers, strict=True):
    rows = writing.rows[digit]
    glyph = int(rows[rng.integers(len(rows))])
    objects.append(SceneObject(digit=digit, color=color, x=x, y=y, glyph=glyph))
  return Scene(tuple(objects))


def _scene_kinds(world: World) -> tuple[str, ...]:
  """The kinds of scene the world has room for."""
  return tuple(
    kind for kind, least in _MIN_OBJECTS.items() if least <= world.max_objects
  )


def _draw_contents(
  kind: str,
  rng: np.random.Generator,
  *,
  max_objects: int,
  is_held_out: bool,
  are_partners: bool | None = None,
) -> _Contents:
  """Digits and colours for one scene of this kind.

  Args:
    kind: one of SCENE_KINDS.
    rng: source of every draw.
    max_objects: largest number of objects, at least what the kind needs.
    is_held_out: if True exactly one composition is held out, the one that the
      kind is about: the colour of a digit ("single", "color_attr"), the count
      ("counting") or the pair of digits (the others). If False none is.
    are_partners: True forces a digit k beside (k + 3) mod 10, False forbids
      it, None leaves it to chance.
  """
  if kind == "single":
    return [_draw(_colored_digits(is_held_out), rng)]
  if kind == "counting":
    digit, count = _draw(_counts(is_held_out, max_objects), rng)
    return [(digit, _draw(SEEN_COLORS[digit], rng)) for _ in range(count)]
  if kind == "color_attr":
    return _draw_color_attr(rng, is_held_out, are_partners)
  digits = _draw_digit_pair(rng, is_held_out, are_partners)
  if kind == "several":
    digits = _add_digits(
      digits, rng, max_objects=max_objects, are_partners=are_partners
    )
  return [(digit, _draw(SEEN_COLORS[digit], rng)) for digit in digits]


def _draw_centers(
  count: int,
  world: World,
  rng: np.random.Generator,
  *,
  relation: str | None = None,
) -> Float[np.ndarray, "{count} 2"]:
  """Centres (x, y) of `count` cells in pixels.

  Uniform over all layouts whose cells are on the canvas and are at least
  `world.gap` apart along some axis.

  Args:
    count: 1 to `world.max_objects`.
    world: the sizes.
    rng: source of every draw.
    relation: of the first object to the second: one of `world.RELATIONS`, or
      ANY_RELATION, which only excludes diagonals.
  """
  if world.is_one_digit:
    return world.canvas / 2 + rng.uniform(
      -world.jitter_px, world.jitter_px, (1, 2)
    )
  margin = world.digit_size / 2
  min_offset = world.digit_size + world.gap
  while True:
    centers = rng.uniform(
      margin, world.canvas - margin, (_NUM_CANDIDATES[count], count, 2)
    )
    for first, second in itertools.combinations(range(count), 2):
      offsets = np.abs(centers[:, first] - centers[:, second])
      centers = centers[offsets.max(axis=1) >= min_offset]
    for candidate in centers:
      if relation is None or _is_related(candidate, relation):
        return candidate


def _is_related(centers: Float[np.ndarray, "count 2"], relation: str) -> bool:
  found = clear_relation(*(centers[0] - centers[1]))
  return found is not None and relation in (_ANY_RELATION, found)


def _draw_kind(world: World, rng: np.random.Generator) -> str:
  """A kind of scene: a fifth single, the others equally often."""
  kinds = _scene_kinds(world)[1:]
  if not kinds or rng.random() < _SINGLE_FRACTION:
    return "single"
  return _draw(kinds, rng)


def _partner_probability(world: World) -> float:
  """The probability of partners, given that digits differ.

  "counting" scenes cannot have partners, so the others have them more often:
  overall in PARTNER_FRACTION of the multi-object scenes.
  """
  num_kinds = len(_scene_kinds(world)[1:])
  return _PARTNER_FRACTION * num_kinds / (num_kinds - 1)


def _draw(choices: Sequence, rng: np.random.Generator):
  return choices[rng.integers(len(choices))]


@functools.cache
def _colored_digits(is_held_out: bool) -> _Contents:
  return [pair for pair in PAIRS if is_held_out_pair(*pair) == is_held_out]


@functools.cache
def _counts(is_held_out: bool, max_count: int) -> list[tuple[int, int]]:
  return [
    (digit, count)
    for digit, count in COUNTS
    if is_held_out_count(digit, count) == is_held_out and count <= max_count
  ]


@functools.cache
def _digit_pairs(
  is_held_out: bool, are_partners: bool | None
) -> list[tuple[int, int]]:
  # The partners 1 and 4, and 6 and 9, are held out themselves, and no other
  # held-out pair are partners: `are_partners` cannot apply to held-out pairs.
  return [
    pair
    for pair in DIGIT_PAIRS
    if is_held_out_digits(*pair) == is_held_out
    and (is_held_out or are_partners in (None, _has_partners(pair)))
  ]


def _has_partners(digits: tuple[int, ...]) -> bool:
  """True if some digit k appears with (k + 3) mod 10."""
  return any((digit + 3) % _NUM_DIGITS in digits for digit in digits)


def _draw_digit_pair(rng, is_held_out, are_partners) -> tuple[int, ...]:
  first, second = _draw(_digit_pairs(is_held_out, are_partners), rng)
  return (first, second) if rng.random() < 0.5 else (second, first)


def _draw_color_attr(rng, is_held_out, are_partners) -> _Contents:
  """Two digits of a seen pair in two different colours, in random order."""
  while True:
    digits = _draw_digit_pair(rng, False, are_partners)
    colors = [_draw(SEEN_COLORS[digit], rng) for digit in digits]
    if is_held_out:
      colors[0] = int(rng.integers(len(COLORS)))
    is_as_asked = is_held_out_pair(digits[0], colors[0]) == is_held_out
    if is_as_asked and colors[0] != colors[1]:
      contents = list(zip(digits, colors, strict=True))
      return contents if rng.random() < 0.5 else contents[::-1]


def _add_digits(digits, rng, *, max_objects, are_partners) -> tuple[int, ...]:
  """Adds one or two digits that bring no new held-out composition."""
  num_held_out = _num_held_out(digits)
  num_more = int(rng.integers(1, max_objects - 1))
  while True:
    more = rng.integers(_NUM_DIGITS, size=num_more).tolist()
    candidate = (*digits, *more)
    if _num_held_out(candidate) != num_held_out:
      continue
    if are_partners is False and _has_partners(candidate):
      continue
    return candidate


def _num_held_out(digits: tuple[int, ...]) -> int:
  """The number of held-out pairs of digits and held-out counts."""
  counts = collections.Counter(digits)
  pairs = itertools.combinations(counts, 2)
  return sum(itertools.starmap(is_held_out_digits, pairs)) + sum(
    itertools.starmap(is_held_out_count, counts.items())
  )
