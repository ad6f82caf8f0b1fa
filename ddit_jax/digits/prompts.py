"""Generation prompts about digits, in the format of GenEval's metadata."""

import dataclasses
import itertools
from typing import Any

import numpy as np

from ddit_jax.digits.scenes import Scene, arrange
from ddit_jax.digits.world import (
  COLORS,
  COUNTS,
  DIGIT_PAIRS,
  DIGIT_WORDS,
  MAX_COUNT,
  OPPOSITES,
  PAIRS,
  PLURALS,
  RELATIONS,
  SEEN_COLORS,
  Handwriting,
  World,
  article,
  is_held_out_count,
  is_held_out_digits,
  is_held_out_pair,
)

TAGS = (
  *("single_object", "two_object", "counting"),
  *("colors", "position", "color_attr"),
)
# Never change it: a different seed is a different benchmark.
_SEED = 0
_POSITIONS_PER_RELATION = {False: 20, True: 5}  # by is_held_out; 100 in all
_COLOR_ATTRS = {False: 60, True: 40}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prompt:
  """One prompt and what an image must show to satisfy it.

  Attributes:
    text: "a picture of ...".
    tag: the task, one of TAGS.
    include: clauses that must all hold: {"class": digit word, "count": n,
      "color"?: word, "position"?: [relation, index of the other clause]}.
    exclude: clauses {"class", "count"} that must all fail.
    is_held_out: True if training never shows this composition.
  """

  text: str
  tag: str
  include: tuple[dict[str, Any], ...]
  exclude: tuple[dict[str, Any], ...] = ()
  is_held_out: bool = False

  def to_metadata(self) -> dict[str, Any]:
    """One line of GenEval's evaluation_metadata.jsonl, ready for JSON."""
    metadata = {"tag": self.tag, "include": list(self.include)}
    if self.exclude:
      metadata["exclude"] = list(self.exclude)
    return metadata | {"prompt": self.text}

  def atoms(self) -> list[dict[str, Any]]:
    """The single claims of the prompt, each as a line of metadata.

    That a digit is there, how many of it, its colour, and where it is.
    """
    found = []
    for clause in self.include:
      thing = {"class": clause["class"], "count": 1}
      found.append([thing])
      if "color" in clause:
        found.append([thing | {"color": clause["color"]}])
      if "position" in clause:
        relation, place = clause["position"]
        found.append([self.include[place], thing | {"position": [relation, 0]}])
    lines = [{"tag": self.tag, "include": clauses} for clauses in found]
    if self.exclude:
      lines.append(self.to_metadata())
    return lines


def prompts(world: World) -> list[Prompt]:
  """All prompts of a world; the list never changes.

  One-digit worlds: 10 single_object and 80 colors. Larger worlds, which must
  have room for four objects: also 45 two_object, 30 counting, 100 position
  and 100 color_attr; 365 in all.

  Raises:
    ValueError: the world holds two or three objects.
  """
  if world.is_one_digit:
    return _single_object() + _colors()
  if world.max_objects < MAX_COUNT:
    raise ValueError(
      f"the prompts ask for up to {MAX_COUNT} objects but this "
      f"world holds {world.max_objects}: set max_objects to 1 or "
      f"{MAX_COUNT}"
    )
  rng = np.random.default_rng(_SEED)
  return (
    _single_object()
    + _two_object()
    + _counting()
    + _colors()
    + _position(rng)
    + _color_attr(rng)
  )


def scene_for(
  prompt: Prompt,
  world: World,
  rng: np.random.Generator,
  *,
  writing: Handwriting,
) -> Scene:
  """A real scene that matches the prompt exactly.

  Unspecified colours are sampled from those seen in training.
  """
  wanted = []
  relation = None
  for clause in prompt.include:
    digit = DIGIT_WORDS.index(clause["class"])
    for _ in range(clause["count"]):
      if "color" in clause:
        color = COLORS.index(clause["color"])
      else:
        seen = SEEN_COLORS[digit]
        color = seen[rng.integers(len(seen))]
      wanted.append((digit, color))
    if "position" in clause:
      # The clause relates itself to clause 0; `arrange` relates 0 to 1.
      relation = OPPOSITES[clause["position"][0]]
  return arrange(wanted, world, rng, writing=writing, relation=relation)


def _named(*words: str) -> str:
  """The words with their article: "an orange seven"."""
  return " ".join((article(words[0]), *words))


def _single_object() -> list[Prompt]:
  return [
    Prompt(
      text=f"a picture of {_named(word)}",
      tag="single_object",
      include=({"class": word, "count": 1},),
    )
    for word in DIGIT_WORDS
  ]


def _two_object() -> list[Prompt]:
  found = []
  for first, second in DIGIT_PAIRS:
    words = DIGIT_WORDS[first], DIGIT_WORDS[second]
    found.append(
      Prompt(
        text=f"a picture of {_named(words[0])} and {_named(words[1])}",
        tag="two_object",
        include=tuple({"class": word, "count": 1} for word in words),
        is_held_out=is_held_out_digits(first, second),
      )
    )
  return found


def _counting() -> list[Prompt]:
  found = []
  for digit, count in COUNTS:
    word = DIGIT_WORDS[digit]
    plural = PLURALS[digit]
    found.append(
      Prompt(
        text=f"a picture of {DIGIT_WORDS[count]} {plural}",
        tag="counting",
        include=({"class": word, "count": count},),
        exclude=({"class": word, "count": count + 1},),
        is_held_out=is_held_out_count(digit, count),
      )
    )
  return found


def _colors() -> list[Prompt]:
  found = []
  for digit, color in PAIRS:
    word, color_word = DIGIT_WORDS[digit], COLORS[color]
    found.append(
      Prompt(
        text=f"a picture of {_named(color_word, word)}",
        tag="colors",
        include=({"class": word, "count": 1, "color": color_word},),
        is_held_out=is_held_out_pair(digit, color),
      )
    )
  return found


def _position(rng: np.random.Generator) -> list[Prompt]:
  found = []
  for relation, is_held_out in itertools.product(RELATIONS, (False, True)):
    choices = [
      pair
      for pair in itertools.permutations(range(len(DIGIT_WORDS)), 2)
      if is_held_out_digits(*pair) == is_held_out
    ]
    count = _POSITIONS_PER_RELATION[is_held_out]
    for row in rng.choice(len(choices), count, replace=False):
      what, reference = (DIGIT_WORDS[digit] for digit in choices[row])
      found.append(
        Prompt(
          text=f"a picture of {_named(what)} {relation} {_named(reference)}",
          tag="position",
          include=(
            {"class": reference, "count": 1},
            {"class": what, "count": 1, "position": [relation, 0]},
          ),
          is_held_out=is_held_out,
        )
      )
  return found


def _color_attr(rng: np.random.Generator) -> list[Prompt]:
  """Two digits in two colours; held out if a digit's colour is.

  The pairs of digits are all seen, so only the colour is new.
  """
  two_objects = [
    (first, second)
    for first, second in itertools.permutations(PAIRS, 2)
    if first[0] != second[0]
    and first[1] != second[1]
    and not is_held_out_digits(first[0], second[0])
  ]
  found = []
  for is_held_out, count in _COLOR_ATTRS.items():
    choices = [
      pairs
      for pairs in two_objects
      if any(is_held_out_pair(*p) for p in pairs) == is_held_out
    ]
    for row in rng.choice(len(choices), count, replace=False):
      clauses = tuple(
        {"class": DIGIT_WORDS[digit], "count": 1, "color": COLORS[color]}
        for digit, color in choices[row]
      )
      phrases = [_named(c["color"], c["class"]) for c in clauses]
      found.append(
        Prompt(
          text=f"a picture of {' and '.join(phrases)}",
          tag="color_attr",
          include=clauses,
          is_held_out=is_held_out,
        )
      )
  return found
