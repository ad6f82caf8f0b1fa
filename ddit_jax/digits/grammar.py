"""Captions of scenes in a closed grammar, and the facts a caption states."""

import collections
import itertools
import re
from collections.abc import Sequence

import numpy as np

from ddit_jax.digits.scenes import Scene, SceneObject
from ddit_jax.digits.world import (
  COLORS,
  DIGIT_WORDS,
  MAX_COUNT,
  OPPOSITES,
  PLURALS,
  RELATIONS,
  article,
)

# ("digit", d), ("pair", d, colour index), ("count", d, n) with n >= 2,
# ("relation", a, "left of" or "above", b): "right of" and "below" are stored
# with a and b swapped, so equal statements are equal facts.
Facts = frozenset[tuple]

# The first of each is the canonical form, the one generation prompts use.
_FRAMES = ("a picture of {}", "{}", "there {be} {}")
_SINGULAR = (
  "{a} {color} {noun}",
  "{a} {noun} in {color}",
  "{a} {noun} that is {color}",
)
_PLURAL = (
  "{a} {color} {noun}",
  "{a} {noun} in {color}",
  "{a} {noun} that are {color}",
)
_RELATED = (
  "{first} {relation} {second}",
  "{first} {first_side} and {second} {second_side}",
  "{first_side} there is {first} and {second_side} there is {second}",
)
_SIDES = {
  "left of": ("on the left", "on the right"),
  "right of": ("on the right", "on the left"),
  "above": ("at the top", "at the bottom"),
  "below": ("at the bottom", "at the top"),
}
_CANONICAL_FRACTION = 0.25
# How often colours or the relation are omitted, about as often as in generation
# prompts.
_NO_COLOR_FRACTION_ONE = 0.1
_NO_COLOR_FRACTION_MORE = 0.4
_NO_RELATION_FRACTION = 0.5
_MANY = {DIGIT_WORDS[n]: n for n in range(2, MAX_COUNT + 1)}

_MENTION = re.compile(
  r"\b(?:an?|(?P<count>{many})) (?:(?P<before>{color}) )?"
  r"(?P<noun>{noun})(?: (?:in|that is|that are) (?P<after>{color}))?\b".format(
    many="|".join(_MANY),
    color="|".join(COLORS),
    noun="|".join(PLURALS + DIGIT_WORDS),
  )
)
_STATED_RELATION = re.compile(rf"#(\d+) ({'|'.join(RELATIONS)}) #(\d+)")


def caption(
  scene: Scene, rng: np.random.Generator, *, is_complete: bool = False
) -> str:
  """A true sentence about the scene, at most 8 words for one digit.

  Names every object. A quarter of the sentences are canonical ("a picture of
  a red seven left of a blue two"), the others paraphrase.

  Args:
    scene: what to describe.
    rng: source of every choice.
    is_complete: if True every fact of the scene is stated; if False colours
      and the relation are sometimes omitted, as in prompts.
  """
  is_one = len(scene.objects) == 1
  no_color = _NO_COLOR_FRACTION_ONE if is_one else _NO_COLOR_FRACTION_MORE
  has_colors = is_complete or rng.random() >= no_color
  has_relation = is_complete or rng.random() >= _NO_RELATION_FRACTION
  frame = style = form = 0
  if rng.random() >= _CANONICAL_FRACTION:
    frame, style, form = (
      int(rng.integers(len(choices)))
      for choices in (_FRAMES, _SINGULAR, _RELATED)
    )
  objects = [scene.objects[i] for i in rng.permutation(len(scene.objects))]
  relation = _spoken_relation(objects) if has_relation else None
  phrases = _phrases(objects, style, has_colors=has_colors)
  if relation is None:
    inner = _listed(phrases)
  else:
    first_side, second_side = _SIDES[relation]
    inner = _RELATED[form].format(
      first=phrases[0],
      second=phrases[1],
      relation=relation,
      first_side=first_side,
      second_side=second_side,
    )
    if form == 2:  # already a complete sentence, which fits no frame
      return inner
  be = "are" if phrases[0].split()[0] in _MANY else "is"
  return _FRAMES[frame].format(inner, be=be)


def references(scene: Scene, seed: int, count: int = 5) -> list[str]:
  """Different complete captions of one scene, determined by the seed.

  Raises:
    ValueError: the grammar has fewer than `count` captions of the scene.
  """
  rng = np.random.default_rng(seed)
  found: dict[str, None] = {}
  for _ in range(200 * count):
    found[caption(scene, rng, is_complete=True)] = None
    if len(found) == count:
      return list(found)
  raise ValueError(
    f"{count} references were requested, but only {len(found)} different "
    f"captions of this scene were found: request {len(found)} or fewer"
  )


def caption_facts(text: str) -> Facts:
  """The facts stated by a text; words outside the grammar state nothing.

  Each object needs an article or a number ("a red seven", "two sevens in
  red"), so loose words in a garbled caption are not facts.
  """
  mentions = []
  facts = set()
  counts = collections.Counter()
  for found in _MENTION.finditer(text):
    is_plural = found["noun"] in PLURALS
    if is_plural != (found["count"] is not None):
      mentions.append(None)
      continue
    nouns = PLURALS if is_plural else DIGIT_WORDS
    digit = nouns.index(found["noun"])
    mentions.append(None if is_plural else digit)
    counts[digit] += _MANY[found["count"]] if is_plural else 1
    facts.add(("digit", digit))
    for color in (found["before"], found["after"]):
      if color is not None:
        facts.add(("pair", digit, COLORS.index(color)))
  numbers = itertools.count()
  outline = _MENTION.sub(lambda _: f"#{next(numbers)}", text)
  facts |= _stated_relations(outline, mentions)
  return frozenset(facts | _count_facts(counts))


def scene_facts(scene: Scene) -> Facts:
  """All facts that a caption of the scene may state.

  A relation only if there are exactly two objects, of different digits and not
  on a diagonal: captions of larger scenes state no relations.
  """
  facts = set()
  for obj in scene.objects:
    facts |= {("digit", obj.digit), ("pair", obj.digit, obj.color)}
  relation = _spoken_relation(scene.objects)
  if relation is not None:
    first, second = (obj.digit for obj in scene.objects)
    facts.add(relation_fact(first, relation, second))
  counts = collections.Counter(obj.digit for obj in scene.objects)
  return frozenset(facts | _count_facts(counts))


def words() -> tuple[str, ...]:
  """Every word and mark of any caption, question, answer or prompt, sorted.

  Texts split on spaces. Punctuation marks are separate words, except in "Q:"
  and "A:".
  """
  small = (
    "Q: A: ? , a above an and are at below bottom center color how in is it "
    "left many no number numbers of on picture right that the there top what "
    "where yes"
  )
  return tuple(sorted({*DIGIT_WORDS, *PLURALS, *COLORS, *small.split()}))


def _spoken_relation(objects: Sequence[SceneObject]) -> str | None:
  """The clear relation of the first of exactly two different digits."""
  if len(objects) != 2 or objects[0].digit == objects[1].digit:
    return None
  return objects[0].relation_to(objects[1])


def _phrases(objects, style: int, *, has_colors: bool) -> list[str]:
  """One noun phrase for each digit, or each digit and colour; in order."""
  groups = collections.Counter(
    (obj.digit, obj.color if has_colors else None) for obj in objects
  )
  return [
    _noun_phrase(digit, color, count=count, style=style)
    for (digit, color), count in groups.items()
  ]


def _noun_phrase(digit: int, color: int | None, *, count: int, style: int):
  """For example "an orange seven", "two sevens in red", "a seven"."""
  noun = DIGIT_WORDS[digit] if count == 1 else PLURALS[digit]
  template = (_SINGULAR if count == 1 else _PLURAL)[style]
  color_word = None if color is None else COLORS[color]
  if color is None:
    template = "{a} {noun}"
  is_color_first = color is not None and style == 0
  first_word = color_word if is_color_first else noun
  determiner = article(first_word) if count == 1 else DIGIT_WORDS[count]
  return template.format(a=determiner, noun=noun, color=color_word)


def _listed(phrases: Sequence[str]) -> str:
  """ "x", "x and y", "x, y and z"."""
  if len(phrases) == 1:
    return phrases[0]
  return f"{', '.join(phrases[:-1])} and {phrases[-1]}"


def relation_fact(first: int, relation: str, second: int) -> tuple:
  """The fact that one digit is `relation` another, see `Facts`."""
  if relation in ("right of", "below"):
    return ("relation", second, OPPOSITES[relation], first)
  return ("relation", first, relation, second)


def _count_facts(counts: collections.Counter) -> set[tuple]:
  return {("count", digit, n) for digit, n in counts.items() if n >= 2}


def _stated_relations(outline: str, mentions: list[int | None]) -> set[tuple]:
  """Relations in a text whose mentions read #0, #1, ...

  Args:
    outline: for example "#0 left of #1", or "#0 on the left and #1 on the
      right".
    mentions: the digit of each mention, None if it is not a single digit.
  """
  found = [
    (int(a), relation, int(b))
    for a, relation, b in _STATED_RELATION.findall(outline)
  ]
  for relation in ("left of", "above"):
    sides = [_mention_at(side, outline) for side in _SIDES[relation]]
    if None not in sides:
      found.append((sides[0], relation, sides[1]))
  return {
    relation_fact(mentions[a], relation, mentions[b])
    for a, relation, b in found
    if mentions[a] is not None and mentions[b] is not None
  }


def _mention_at(side: str, outline: str) -> int | None:
  """The number of the mention stated to be "on the left", and so on."""
  found = re.search(rf"{side} there is #(\d+)|#(\d+) {side}", outline)
  return None if found is None else int(found[1] or found[2])
