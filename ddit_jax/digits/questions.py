"""Questions about scenes, their answers, and ten annotators' answers."""

import dataclasses
from collections.abc import Callable

import numpy as np

from ddit_jax.digits.scenes import Scene, SceneObject
from ddit_jax.digits.world import (
  COLORS,
  DIGIT_WORDS,
  OPPOSITES,
  PAIRS,
  PLURALS,
  RELATIONS,
  World,
  article,
  is_held_out_pair,
  loose_relations,
)

YES_NO = ("yes", "no")
_PLACES = (
  *("top left", "top", "top right"),
  *("left", "center", "right"),
  *("bottom left", "bottom", "bottom right"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question:
  """One question with its only correct answer.

  Attributes:
    kind: one of QUESTION_KINDS.
    text: ends with a question mark.
    answer: one or two words.
    answer_type: "yes/no", "number" or "other", as in the VQA v2 files.
  """

  kind: str
  text: str
  answer: str
  answer_type: str


def kinds(world: World) -> tuple[str, ...]:
  """The kinds of question that make sense in the world."""
  return _ONE_DIGIT_KINDS if world.is_one_digit else _SEVERAL_DIGITS_KINDS


def ask(
  kind: str, scene: Scene, world: World, rng: np.random.Generator
) -> Question | None:
  """A question of this kind, or None if no referent is unique.

  Yes/no questions have the answer "no" with probability 1/2. A (digit, colour)
  whose answer is "no" is held out only if one in the scene is, so questions
  about seen scenes never name a held-out pair.

  Raises:
    ValueError: if the world has no such kind of question.
  """
  if kind not in kinds(world):
    raise ValueError(
      f"there is no question of kind {kind!r} about scenes of at most "
      f"{world.max_objects} digits; choose one of {kinds(world)}"
    )
  asked = _ASKERS[kind](scene, world, rng)
  if asked is None:
    return None
  text, answer = asked
  return Question(
    kind=kind, text=text, answer=answer, answer_type=_ANSWER_TYPES[kind]
  )


def questions(
  scene: Scene, world: World, rng: np.random.Generator
) -> list[Question]:
  """One question of every kind whose referent is unique in the scene."""
  asked = (ask(kind, scene, world, rng) for kind in kinds(world))
  return [question for question in asked if question is not None]


def possible_answers(kind: str, world: World) -> tuple[str, ...]:
  """All answers a question of this kind can have in the world."""
  if _ANSWER_TYPES[kind] == "yes/no":
    return YES_NO
  if kind in _COUNT_KINDS:
    return DIGIT_WORDS[1 : world.max_objects + 1]
  return {"what_color": COLORS, "where": _PLACES}.get(kind, DIGIT_WORDS)


def prompt_text(question: Question) -> str:
  """The text before the answer, with its trailing space."""
  return f"Q: {question.text} A: "


def presence_question(digit: int, *, is_present: bool) -> Question:
  """ "is there a seven?" with the answer for this presence."""
  word = DIGIT_WORDS[digit]
  return Question(
    kind="is_there",
    text=f"is there {article(word)} {word}?",
    answer=YES_NO[0 if is_present else 1],
    answer_type="yes/no",
  )


def pair_question(digit: int, color: int, *, is_present: bool) -> Question:
  """ "is there a red seven?" with the answer for this presence."""
  words = COLORS[color], DIGIT_WORDS[digit]
  return Question(
    kind="is_there_pair",
    text=f"is there {article(words[0])} {words[0]} {words[1]}?",
    answer=YES_NO[0 if is_present else 1],
    answer_type="yes/no",
  )


def number_question(obj: SceneObject, world: World) -> Question:
  """ "what number is red?"; its colour must be unique in the scene."""
  asked = "it" if world.is_one_digit else COLORS[obj.color]
  return Question(
    kind="what_number",
    text=f"what number is {asked}?",
    answer=DIGIT_WORDS[obj.digit],
    answer_type="number",
  )


def color_question(obj: SceneObject, *, is_named: bool = True) -> Question:
  """ "what color is the seven?"; the digit must be unique in the scene."""
  name = DIGIT_WORDS[obj.digit] if is_named else "number"
  return Question(
    kind="what_color",
    text=f"what color is the {name}?",
    answer=COLORS[obj.color],
    answer_type="other",
  )


def _pick(choices, rng: np.random.Generator):
  return choices[rng.integers(len(choices))]


def _unique_by(scene: Scene, attribute: str) -> list[SceneObject]:
  """Objects whose value of the attribute is unique in the scene."""
  values = [getattr(obj, attribute) for obj in scene.objects]
  return [
    obj for obj in scene.objects if values.count(getattr(obj, attribute)) == 1
  ]


def _ask_what_number(scene, world, rng):
  if world.is_one_digit:
    obj = scene.objects[0]
  elif objects := _unique_by(scene, "color"):
    obj = _pick(objects, rng)
  else:
    return None
  question = number_question(obj, world)
  return question.text, question.answer


def _ask_what_color(scene, world, rng):
  objects = _unique_by(scene, "digit")
  if not objects:
    return None
  obj = _pick(objects, rng)
  is_named = not world.is_one_digit or rng.random() < 0.5
  question = color_question(obj, is_named=is_named)
  return question.text, question.answer


def _ask_color_yes_no(scene, world, rng):
  color = scene.objects[0].color
  if rng.random() < 0.5:
    return f"is it {COLORS[color]}?", "yes"
  other = (color + int(rng.integers(1, len(COLORS)))) % len(COLORS)
  return f"is it {COLORS[other]}?", "no"


def _ask_is_there(scene, world, rng):
  present = {obj.digit for obj in scene.objects}
  is_present = bool(rng.random() < 0.5)
  choices = [d for d in range(10) if (d in present) == is_present]
  question = presence_question(_pick(choices, rng), is_present=is_present)
  return question.text, question.answer


def _ask_is_there_pair(scene, world, rng):
  obj = _pick(scene.objects, rng)
  asked, is_present = (obj.digit, obj.color), True
  if rng.random() < 0.5:
    misses = _near_misses(scene, *asked)
    if not misses:
      return None
    asked, is_present = _pick(misses, rng), False
  question = pair_question(*asked, is_present=is_present)
  return question.text, question.answer


def _near_misses(scene: Scene, digit: int, color: int) -> list[tuple]:
  """Absent (digit, colour) that share exactly one of the two.

  Held out if and only if the given pair is.
  """
  present = {(obj.digit, obj.color) for obj in scene.objects}
  is_held_out = is_held_out_pair(digit, color)
  return [
    pair
    for pair in PAIRS
    if (pair[0] == digit) != (pair[1] == color)
    and is_held_out_pair(*pair) == is_held_out
    and pair not in present
  ]


def _ask_how_many(scene, world, rng):
  digits = [obj.digit for obj in scene.objects]
  digit = _pick(sorted(set(digits)), rng)
  count = DIGIT_WORDS[digits.count(digit)]
  return f"how many {PLURALS[digit]} are there?", count


def _ask_how_many_numbers(scene, world, rng):
  return "how many numbers are there?", DIGIT_WORDS[len(scene.objects)]


def _ask_is_relation(scene, world, rng):
  objects = _unique_by(scene, "digit")
  related = [
    (first, relation, second)
    for first in objects
    for second in objects
    if first is not second
    and (relation := first.relation_to(second)) is not None
  ]
  if not related:
    return None
  first, relation, second = _pick(related, rng)
  answer = "yes"
  if rng.random() < 0.5:
    relation, answer = OPPOSITES[relation], "no"
  names = DIGIT_WORDS[first.digit], DIGIT_WORDS[second.digit]
  return f"is the {names[0]} {relation} the {names[1]}?", answer


def _ask_where(scene, world, rng):
  objects = _unique_by(scene, "digit")
  if not objects:
    return None
  obj = _pick(objects, rng)
  column, row = (int(3 * at / world.canvas) for at in (obj.x, obj.y))
  return f"where is the {DIGIT_WORDS[obj.digit]}?", _PLACES[3 * row + column]


def _ask_what_relation(scene, world, rng):
  """ "what is above the two?", if exactly one object clearly is."""
  answers = []
  for reference in _unique_by(scene, "digit"):
    others = [obj for obj in scene.objects if obj is not reference]
    for relation in RELATIONS:
      there = [o for o in others if relation in _loosely(o, reference)]
      if len(there) == 1 and there[0].relation_to(reference) == relation:
        answers.append((reference.digit, relation, there[0].digit))
  if not answers:
    return None
  digit, relation, answer = _pick(answers, rng)
  return f"what is {relation} the {DIGIT_WORDS[digit]}?", DIGIT_WORDS[answer]


def _loosely(first: SceneObject, second: SceneObject) -> tuple[str, ...]:
  return loose_relations(first.x - second.x, first.y - second.y)


_ASKERS: dict[str, Callable] = {
  "what_number": _ask_what_number,
  "what_color": _ask_what_color,
  "color_yes_no": _ask_color_yes_no,
  "is_there": _ask_is_there,
  "is_there_pair": _ask_is_there_pair,
  "how_many": _ask_how_many,
  "how_many_numbers": _ask_how_many_numbers,
  "is_relation": _ask_is_relation,
  "where": _ask_where,
  "what_relation": _ask_what_relation,
}
_ANSWER_TYPES = {
  "what_number": "number",
  "what_color": "other",
  "color_yes_no": "yes/no",
  "is_there": "yes/no",
  "is_there_pair": "yes/no",
  "how_many": "number",
  "how_many_numbers": "number",
  "is_relation": "yes/no",
  "where": "other",
  "what_relation": "number",
}
_COUNT_KINDS = ("how_many", "how_many_numbers")
QUESTION_KINDS = tuple(_ASKERS)
_ONE_DIGIT_KINDS = QUESTION_KINDS[:5]
_SEVERAL_DIGITS_KINDS = tuple(
  kind for kind in QUESTION_KINDS if kind != "color_yes_no"
)

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
# Digits that are easily mistaken for each other.
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
  """Ten answers: seven canonical, two synonyms and one plausible error.

  Never unanimous, because the official VQA scorer skips its normalisation
  where all ten agree. The order and the error depend on the seed only.
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
  if question.kind in _COUNT_KINDS:
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
  row, column = divmod(_PLACES.index(place), 3)
  return [
    _PLACES[3 * r + c]
    for r in range(3)
    for c in range(3)
    if abs(r - row) + abs(c - column) == 1
  ]
