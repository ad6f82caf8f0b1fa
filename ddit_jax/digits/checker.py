"""Does an image keep its prompt? GenEval's logic on the digits in it."""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from ddit_jax.digits.components import Piece, find_pieces
from ddit_jax.digits.compositions import DIGIT_WORDS
from ddit_jax.digits.digit_reader import Readings, fit_reader
from ddit_jax.digits.prompts import Prompt
from ddit_jax.digits.worlds import World
from ddit_jax.evaluation import geneval

UNREADABLE = "unreadable"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Findings:
  """The things in an image, by two ways of reading them.

  Attributes:
    first: every thing by the first reading.
    agreed: the same things; those whose second reading differs are
      "unreadable".
  """

  first: tuple[geneval.Detection, ...]
  agreed: tuple[geneval.Detection, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
  """Whether an image keeps its prompt.

  Attributes:
    is_correct: True if it does by the first reading of every digit.
    is_strictly_correct: True if it also does when a digit counts only where
      the second reading agrees.
    reasons: what is wrong by the first reading, one line each.
  """

  is_correct: bool
  is_strictly_correct: bool
  reasons: tuple[str, ...]


class Checker:
  """Finds and reads the digits of one world's images.

  Building one takes about two seconds; `checker_for` builds each only once.
  """

  def __init__(self, world: World):
    self._world = world
    self._reader = fit_reader(world)

  def find(self, images: np.ndarray) -> list[Findings]:
    """The things in each image, uint8 [n, S, S, 3].

    Raises:
      ValueError: for images of another size or type.
    """
    side = self._world.canvas
    if images.dtype != np.uint8 or images.shape[1:] != (side, side, 3):
      raise ValueError(
        f"images must be uint8 [n, {side}, {side}, 3] in this world, got "
        f"{images.dtype} {list(images.shape)}"
      )
    pieces = find_pieces(images, digit_size=self._world.digit_size)
    readings = self._reader.read([p for found in pieces for p in found])
    ends = np.cumsum([len(found) for found in pieces], dtype=int)
    return [
      _describe(found, readings, first_row=end - len(found))
      for found, end in zip(pieces, ends, strict=True)
    ]

  def detections(self, image: np.ndarray) -> list[geneval.Detection]:
    """The things in one image, uint8 [S, S, 3], by the first reading.

    Pieces that are no digit have the class "unreadable".
    """
    return list(self.find(image[None])[0].first)

  def verdict(self, prompt: Prompt, image: np.ndarray) -> Verdict:
    """Judges one image, uint8 [S, S, 3]."""
    return judge(prompt, self.find(image[None])[0])


@functools.cache
def checker_for(world: World) -> Checker:
  """The checker of this world, built at the first call."""
  return Checker(world)


def judge(prompt: Prompt, findings: Findings) -> Verdict:
  """Judges what was found in an image."""
  metadata = prompt.to_metadata()
  lenient = geneval.judge(metadata, findings.first)
  agreed = geneval.judge(metadata, findings.agreed)
  return Verdict(
    is_correct=lenient.is_correct,
    # Agreement alone could forgive one digit too many, where it is disputed.
    is_strictly_correct=lenient.is_correct and agreed.is_correct,
    reasons=lenient.reasons,
  )


def _describe(
  pieces: Sequence[Piece], readings: Readings, *, first_row: int
) -> Findings:
  """One image's pieces, whose readings begin at `first_row`."""
  first, agreed = [], []
  for row, piece in enumerate(pieces, first_row):
    digit, second = readings.digits[row], readings.second_opinions[row]
    name = DIGIT_WORDS[digit] if readings.is_digit[row] else UNREADABLE
    for things, class_name in (
      (first, name),
      (agreed, name if digit == second else UNREADABLE),
    ):
      things.append(
        geneval.Detection(
          class_name=class_name, box=piece.box, color=piece.color
        )
      )
  return Findings(first=tuple(first), agreed=tuple(agreed))
