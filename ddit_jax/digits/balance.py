"""Draws scenes and questions so that every answer comes up equally often."""

import collections
import dataclasses
from collections.abc import Callable

import numpy as np

from ddit_jax.digits import questions
from ddit_jax.digits.scenes import Scene
from ddit_jax.digits.worlds import World

_MAX_DRAWS = 5000


@dataclasses.dataclass(frozen=True, kw_only=True)
class BalancedAsker:
  """Asks about random scenes; remembers the answers it has given.

  Attributes:
    world: the sizes.
    sample: draws a scene.
    rng: source of the questions' choices.
    slack: how far an answer may be ahead of the rarest answer of its kind;
      0 gives exact balance, more needs fewer draws.
    counts: per kind of question, how often each answer was given.
  """

  world: World
  sample: Callable[[], Scene]
  rng: np.random.Generator
  slack: int = 0
  counts: dict[str, collections.Counter] = dataclasses.field(
    default_factory=lambda: collections.defaultdict(collections.Counter)
  )

  def draw(self, kind: str) -> tuple[Scene, questions.Question]:
    """A scene and a question of this kind whose answer is not too frequent.

    Raises:
      ValueError: if the world has no such kind of question, or if scenes
        with the rarest answer do not turn up.
    """
    counts = self.counts[kind]
    answers = questions.possible_answers(kind, self.world)
    limit = min(counts[answer] for answer in answers) + self.slack
    for _ in range(_MAX_DRAWS):
      scene = self.sample()
      question = questions.ask(kind, scene, self.world, self.rng)
      if question is not None and counts[question.answer] <= limit:
        counts[question.answer] += 1
        return scene, question
    raise ValueError(
      f"none of {_MAX_DRAWS} scenes allowed a question of kind {kind!r} with "
      f"a rare answer, given so far {dict(counts)}: leave the kind out in "
      "this world"
    )
