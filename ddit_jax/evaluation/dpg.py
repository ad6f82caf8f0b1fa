"""DPG-Bench: answers about propositions that depend on each other.

Source: the scoring part of DPG-Bench in ELLA at 3c228f1; the answers of its VQA
model are given.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ddit_jax.evaluation.vqa_accuracy import mean


@dataclass(frozen=True, kw_only=True)
class Proposition:
  """One question about an image.

  Attributes:
    number: its id within the prompt, from 1.
    parents: ids of the propositions without which it cannot hold.
    category: e.g. "entity - whole", the text before the tuple's bracket.
  """

  number: int
  parents: tuple[int, ...]
  category: str


def tile_score(
  propositions: Sequence[Proposition], answers: Mapping[int, str]
) -> float:
  """Share of propositions that hold; false where a parent is, in their order.

  Raises:
    KeyError: a parent is no proposition of the prompt.
  """
  holds = _plain_scores(propositions, answers)
  for one in propositions:
    if any(holds[parent] == 0 for parent in one.parents):
      holds[one.number] = 0.0
  return mean(holds.values())


def _plain_scores(
  propositions: Sequence[Proposition], answers: Mapping[int, str]
) -> dict[int, float]:
  """1 for exactly "yes", whatever the parents: "Yes" and "yes " are 0."""
  return {
    one.number: float(answers[one.number] == "yes") for one in propositions
  }


def image_score(
  propositions: Sequence[Proposition], tiles: Sequence[Mapping[int, str]]
) -> float:
  """Mean over the tiles of an image, in [0, 1]."""
  return mean(tile_score(propositions, answers) for answers in tiles)


def category_scores(
  images: Sequence[tuple[Sequence[Proposition], Sequence[Mapping[int, str]]]],
) -> tuple[dict[str, float], dict[str, float]]:
  """(level 1, level 2): per cent of propositions that hold, by category.

  As published, only the last tile of each image counts, and a proposition
  counts as answered, whatever its parents. Level 1 is the category's part
  before the hyphen.
  """
  levels = defaultdict(list), defaultdict(list)
  for propositions, tiles in images:
    scores = _plain_scores(propositions, tiles[-1])
    for one in propositions:
      levels[0][one.category.split("-")[0].strip()].append(scores[one.number])
      levels[1][one.category].append(scores[one.number])
  first, second = (
    {kind: mean(some) * 100 for kind, some in level.items()} for level in levels
  )
  return first, second
