"""Where the things of a scene lie: cells apart, sometimes in a relation."""

import itertools

import numpy as np

from ddit_jax.digits import relations
from ddit_jax.digits.worlds import World

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
