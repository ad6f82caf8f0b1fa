"""Which digits in which colours a scene holds, before they have a place."""

import collections
import functools
import itertools

import numpy as np

from ddit_jax.digits import compositions
from ddit_jax.digits.worlds import World

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
