"""Questions about scenes, and their answers."""

import dataclasses
from collections.abc import Callable

import numpy as np

from ddit_jax.digits import world as compositions
from ddit_jax.digits import world as relations
from ddit_jax.digits.scenes import Scene, Thing, relation_between
from ddit_jax.digits.world import COLORS, DIGIT_WORDS, PLURALS, World, article

YES_NO = ("yes", "no")
PLACES = (
  *("top left", "top", "top right"),
  *("left", "center", "right"),
  *("bottom left", "bottom", "bottom right"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question:
  """One question with its only right answer.

  Attributes:
    kind: one of KINDS.
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
  return ONE_DIGIT_KINDS if world.is_one_digit else SEVERAL_DIGITS_KINDS


def ask(
  kind: str, scene: Scene, world: World, rng: np.random.Generator
) -> Question | None:
  """A question of this kind, or None if no referent is unique.

  Half of the yes/no questions, by a coin, are asked so that the answer is no.
  A denied digit in a denied colour is held out only if some (digit, colour)
  of the scene is, so questions about seen scenes name no held-out one.

  Raises:
    ValueError: if the world has no such kind of question.
  """
  if kind not in kinds(world):
    raise ValueError(
      f"there is no question of kind {kind!r} about scenes of at most "
      f"{world.max_objects} digits; choose among {kinds(world)}"
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
  if kind in COUNT_KINDS:
    return DIGIT_WORDS[1 : world.max_objects + 1]
  return {"what_color": COLORS, "where": PLACES}.get(kind, DIGIT_WORDS)


def prompt_text(question: Question) -> str:
  """The text before the answer, with its trailing blank."""
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


def _pick(choices, rng: np.random.Generator):
  return choices[rng.integers(len(choices))]


def _unique_by(scene: Scene, attribute: str) -> list[Thing]:
  """Things that share the value of the attribute with no other thing."""
  values = [getattr(thing, attribute) for thing in scene.things]
  return [
    thing
    for thing in scene.things
    if values.count(getattr(thing, attribute)) == 1
  ]


def _ask_what_number(scene, world, rng):
  if world.is_one_digit:
    return "what number is it?", DIGIT_WORDS[scene.things[0].digit]
  things = _unique_by(scene, "color")
  if not things:
    return None
  thing = _pick(things, rng)
  return f"what number is {COLORS[thing.color]}?", DIGIT_WORDS[thing.digit]


def _ask_what_color(scene, world, rng):
  things = _unique_by(scene, "digit")
  if not things:
    return None
  thing = _pick(things, rng)
  is_named = not world.is_one_digit or rng.random() < 0.5
  name = DIGIT_WORDS[thing.digit] if is_named else "number"
  return f"what color is the {name}?", COLORS[thing.color]


def _ask_color_yes_no(scene, world, rng):
  color = scene.things[0].color
  if rng.random() < 0.5:
    return f"is it {COLORS[color]}?", "yes"
  other = (color + int(rng.integers(1, len(COLORS)))) % len(COLORS)
  return f"is it {COLORS[other]}?", "no"


def _ask_is_there(scene, world, rng):
  present = {thing.digit for thing in scene.things}
  is_present = bool(rng.random() < 0.5)
  choices = [d for d in range(10) if (d in present) == is_present]
  question = presence_question(_pick(choices, rng), is_present=is_present)
  return question.text, question.answer


def _ask_is_there_pair(scene, world, rng):
  thing = _pick(scene.things, rng)
  asked, answer = (thing.digit, thing.color), "yes"
  if rng.random() < 0.5:
    misses = _near_misses(scene, *asked)
    if not misses:
      return None
    asked, answer = _pick(misses, rng), "no"
  digit, color = DIGIT_WORDS[asked[0]], COLORS[asked[1]]
  return f"is there {article(color)} {color} {digit}?", answer


def _near_misses(scene: Scene, digit: int, color: int) -> list[tuple]:
  """Absent (digit, colour) that share just one of the two, held out alike."""
  present = {(thing.digit, thing.color) for thing in scene.things}
  is_held_out = compositions.is_held_out_pair(digit, color)
  return [
    pair
    for pair in compositions.PAIRS
    if (pair[0] == digit) != (pair[1] == color)
    and compositions.is_held_out_pair(*pair) == is_held_out
    and pair not in present
  ]


def _ask_how_many(scene, world, rng):
  digits = [thing.digit for thing in scene.things]
  digit = _pick(sorted(set(digits)), rng)
  count = DIGIT_WORDS[digits.count(digit)]
  return f"how many {PLURALS[digit]} are there?", count


def _ask_how_many_numbers(scene, world, rng):
  return "how many numbers are there?", DIGIT_WORDS[len(scene.things)]


def _ask_is_relation(scene, world, rng):
  things = _unique_by(scene, "digit")
  related = [
    (first, relation, second)
    for first in things
    for second in things
    if first is not second
    and (relation := relation_between(first, second)) is not None
  ]
  if not related:
    return None
  first, relation, second = _pick(related, rng)
  answer = "yes"
  if rng.random() < 0.5:
    relation, answer = relations.OPPOSITES[relation], "no"
  names = DIGIT_WORDS[first.digit], DIGIT_WORDS[second.digit]
  return f"is the {names[0]} {relation} the {names[1]}?", answer


def _ask_where(scene, world, rng):
  things = _unique_by(scene, "digit")
  if not things:
    return None
  thing = _pick(things, rng)
  column, row = (int(3 * at / world.canvas) for at in (thing.x, thing.y))
  return f"where is the {DIGIT_WORDS[thing.digit]}?", PLACES[3 * row + column]


def _ask_what_relation(scene, world, rng):
  """ "what is above the two?", if one thing is, and clearly so."""
  answers = []
  for reference in _unique_by(scene, "digit"):
    others = [thing for thing in scene.things if thing is not reference]
    for relation in relations.RELATIONS:
      there = [o for o in others if relation in _loosely(o, reference)]
      if len(there) == 1 and relation_between(there[0], reference) == relation:
        answers.append((reference.digit, relation, there[0].digit))
  if not answers:
    return None
  digit, relation, answer = _pick(answers, rng)
  return f"what is {relation} the {DIGIT_WORDS[digit]}?", DIGIT_WORDS[answer]


def _loosely(first: Thing, second: Thing) -> tuple[str, ...]:
  return relations.loose_relations(first.x - second.x, first.y - second.y)


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
COUNT_KINDS = ("how_many", "how_many_numbers")
KINDS = tuple(_ASKERS)
ONE_DIGIT_KINDS = KINDS[:5]
SEVERAL_DIGITS_KINDS = tuple(kind for kind in KINDS if kind != "color_yes_no")
