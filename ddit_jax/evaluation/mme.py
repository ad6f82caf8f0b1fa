"""MME: yes/no answers in pairs, scored by question and by image.

Source: calculation.py of MME's eval_tool.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ddit_jax.evaluation.vqa_accuracy import mean

TOTALS = {
  "perception": (
    "existence",
    "count",
    "position",
    "color",
    "posters",
    "celebrity",
    "scene",
    "landmark",
    "artwork",
    "OCR",
  ),
  "cognition": (
    "commonsense_reasoning",
    "numerical_calculation",
    "text_translation",
    "code_reasoning",
  ),
}
SUBTASKS = tuple(name for names in TOTALS.values() for name in names)
_PREFIX = 4


@dataclass(frozen=True, kw_only=True)
class Line:
  """One question.

  Attributes:
    image: name of its image.
    label: "yes" or "no".
    response: free text.
  """

  image: str
  label: str
  response: str

  @property
  def is_right(self) -> bool:
    """Whether the response says what the label says."""
    return parse(self.response) == self.label


def parse(response: str) -> str:
  """ "yes", "no" or "other": what the first four characters hold, yes first.

  So "know", "now" and "snow" are "no", "eyes" is "yes", and " the no" is
  "other": published behaviour, kept.
  """
  prefix = response.lower()[:_PREFIX]
  return next((word for word in ("yes", "no") if word in prefix), "other")


def image_pairs(lines: Sequence[Line]) -> list[tuple[Line, Line]]:
  """The lines two by two, one pair an image.

  Raises:
    ValueError: no lines, an odd number, or a pair of two images.
  """
  if not lines or len(lines) % 2:
    raise ValueError(
      f"{len(lines)} lines: each image has two, one after the other; the "
      "official tool stops with an assertion"
    )
  pairs = list(zip(lines[::2], lines[1::2], strict=True))
  for first, second in pairs:
    if first.image != second.image:
      raise ValueError(
        f"the lines of {first.image!r} and {second.image!r} are a pair: two "
        "lines in a row must be of one image; the official tool stops with an "
        "assertion"
      )
  return pairs


def score(pairs: Sequence[tuple[Line, Line]]) -> float:
  """100 x accuracy + 100 x the share of images with both right; at most 200.

  "other" is wrong.
  """
  accuracy = mean(line.is_right for pair in pairs for line in pair)
  both = mean(all(line.is_right for line in pair) for pair in pairs)
  return 100 * accuracy + 100 * both


def image_scores(
  pairs: Sequence[tuple[Line, Line]],
) -> list[tuple[str, float]]:
  """(image, its score of 0, 50 or 200); `score` is their mean."""
  points = (0.0, 50.0, 200.0)
  return [
    (pair[0].image, points[sum(line.is_right for line in pair)])
    for pair in pairs
  ]
