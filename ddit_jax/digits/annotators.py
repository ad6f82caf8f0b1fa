"""Ten made-up annotators for a question, as the VQA v2 files have them."""

import numpy as np

from ddit_jax.digits.compositions import COLORS, DIGIT_WORDS
from ddit_jax.digits.questions import COUNT_KINDS, PLACES, Question

_NUM_CANONICAL = 7
_NUM_SYNONYMS = 2
_COLOR_SYNONYMS = {
  "red": "scarlet",
  "orange": "amber",
  "yellow": "golden",
  "green": "lime",
  "cyan": "turquoise",
  "blue": "azure",
  "purple": "violet",
  "pink": "magenta",
}
_PLACE_SYNONYMS = {
  "top left": "upper left",
  "top": "upper middle",
  "top right": "upper right",
  "left": "middle left",
  "center": "middle",
  "right": "middle right",
  "bottom left": "lower left",
  "bottom": "lower middle",
  "bottom right": "lower right",
}
# Digits a hurried reader takes for each other.
_CONFUSED_DIGITS = {
  0: (6, 8),
  1: (7, 4),
  2: (3, 7),
  3: (8, 5),
  4: (9, 1),
  5: (3, 6),
  6: (0, 8),
  7: (1, 9),
  8: (3, 9),
  9: (4, 7),
}


def annotators(question: Question, seed: int) -> list[str]:
  """Ten answers: seven canonical, two a synonym, one a plausible error.

  Never unanimous, because the official scorer skips its normalisation where
  all ten agree. The order and the error depend on the seed only.
  """
  rng = np.random.default_rng(seed)
  errors = _plausible_errors(question)
  answers = [
    *[question.answer] * _NUM_CANONICAL,
    *[_synonym(question.answer)] * _NUM_SYNONYMS,
    errors[rng.integers(len(errors))],
  ]
  return [answers[i] for i in rng.permutation(len(answers))]


def _synonym(answer: str) -> str:
  if answer in DIGIT_WORDS:
    return str(DIGIT_WORDS.index(answer))
  yes_no = {"yes": "yeah", "no": "nope"}
  return (yes_no | _COLOR_SYNONYMS | _PLACE_SYNONYMS)[answer]


def _plausible_errors(question: Question) -> list[str]:
  answer = question.answer
  if question.answer_type == "yes/no":
    return ["no" if answer == "yes" else "yes"]
  if question.kind in COUNT_KINDS:
    count = DIGIT_WORDS.index(answer)
    return [DIGIT_WORDS[count - 1], DIGIT_WORDS[count + 1]]
  if answer in DIGIT_WORDS:
    confused = _CONFUSED_DIGITS[DIGIT_WORDS.index(answer)]
    return [DIGIT_WORDS[digit] for digit in confused]
  if answer in COLORS:
    index = COLORS.index(answer)
    return [COLORS[index - 1], COLORS[(index + 1) % len(COLORS)]]
  return _next_places(answer)


def _next_places(place: str) -> list[str]:
  """The places one step away along one axis."""
  row, column = divmod(PLACES.index(place), 3)
  return [
    PLACES[3 * r + c]
    for r in range(3)
    for c in range(3)
    if abs(r - row) + abs(c - column) == 1
  ]
