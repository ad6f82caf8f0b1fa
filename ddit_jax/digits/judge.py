"""Does an image match its prompt? GenEval's rules on digits."""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from ddit_jax.digits.digit_classifier import Predictions, fit_classifier
from ddit_jax.digits.prompts import Prompt
from ddit_jax.digits.segmentation import Segment, find_segments
from ddit_jax.digits.world import DIGIT_WORDS, World
from ddit_jax.evaluation import geneval

_UNREADABLE = "unreadable"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judgement:
  """Whether an image matches its prompt.

  Attributes:
    is_correct: True if it does by the first classification of every digit.
    is_strictly_correct: True if it also does when a digit counts only where
      both classifications agree.
    atoms: the share of the prompt's single claims that hold, see
      `Prompt.atoms`.
    reasons: what is wrong by the first classification, one line each.
  """

  is_correct: bool
  is_strictly_correct: bool
  atoms: float
  reasons: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Findings:
  """The objects in an image, by two classifications.

  Attributes:
    first: every object by the first classification.
    agreed: the same objects, "unreadable" where the second one differs.
  """

  first: tuple[geneval.Detection, ...]
  agreed: tuple[geneval.Detection, ...]

  def judge(self, prompt: Prompt) -> Judgement:
    """Compares the objects with a prompt."""
    metadata = prompt.to_metadata()
    lenient = geneval.judge(metadata, self.first)
    agreed = geneval.judge(metadata, self.agreed)
    atoms = [
      geneval.judge(atom, self.first).is_correct for atom in prompt.atoms()
    ]
    return Judgement(
      is_correct=lenient.is_correct,
      # Agreement alone could ignore a surplus digit on which they disagree.
      is_strictly_correct=lenient.is_correct and agreed.is_correct,
      atoms=sum(atoms) / len(atoms),
      reasons=lenient.reasons,
    )


class _Judge:
  """Finds and classifies the digits in images of one world.

  Construction takes about two seconds; `judge_for` caches instances.
  """

  def __init__(self, world: World):
    self._world = world
    self._classifier = fit_classifier(world)

  def find(self, images: np.ndarray) -> list[Findings]:
    """The objects in each image, uint8 [n, canvas, canvas, 3].

    Segments that are not a digit have the class "unreadable".

    Raises:
      ValueError: images of another size or type.
    """
    side = self._world.canvas
    if images.dtype != np.uint8 or images.shape[1:] != (side, side, 3):
      raise ValueError(
        f"images must be uint8 [n, {side}, {side}, 3] in this world, got "
        f"{images.dtype} {list(images.shape)}"
      )
    segments = find_segments(images, digit_size=self._world.digit_size)
    predictions = self._classifier.predict([s for row in segments for s in row])
    ends = np.cumsum([len(row) for row in segments], dtype=int)
    return [
      _findings(row, predictions, first_row=end - len(row))
      for row, end in zip(segments, ends, strict=True)
    ]


@functools.cache
def judge_for(world: World) -> _Judge:
  """The judge of this world, built by the first call."""
  return _Judge(world)


def _findings(
  segments: Sequence[Segment], predictions: Predictions, *, first_row: int
) -> Findings:
  """One image's segments, whose predictions begin at `first_row`."""
  first, agreed = [], []
  for row, segment in enumerate(segments, first_row):
    digit = predictions.digits[row]
    name = DIGIT_WORDS[digit] if predictions.is_digit[row] else _UNREADABLE
    is_agreed = digit == predictions.second_opinions[row]
    for objects, class_name in (
      (first, name),
      (agreed, name if is_agreed else _UNREADABLE),
    ):
      objects.append(
        geneval.Detection(
          class_name=class_name, box=segment.box, color=segment.color
        )
      )
  return Findings(first=tuple(first), agreed=tuple(agreed))
