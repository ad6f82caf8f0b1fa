"""Answers questions from a caption alone, by the grammar's rules.

As the paper judges captions in its Table 4: one who has read the caption and
does not see the image answers. What a caption does not state is absent, and
what can then not be answered is "unknown".
"""

import re
from collections.abc import Callable, Sequence

from ddit_jax.digits.grammar import Facts, caption_facts, relation_fact
from ddit_jax.digits.world import (
  COLORS,
  DIGIT_WORDS,
  PLURALS,
  RELATIONS,
)

_UNKNOWN = "unknown"
_DIGIT, _COLOR, _PLURAL, _RELATION = (
  f"({'|'.join(words)})" for words in (DIGIT_WORDS, COLORS, PLURALS, RELATIONS)
)


def answer(question: str, caption: str) -> str:
  """The answer to a question of `questions`, as the caption has it.

  Args:
    question: its text.
    caption: any text.

  Returns:
    A canonical answer; "unknown" if the caption names no or several.
  """
  facts = caption_facts(caption)
  for pattern, rule in _RULES:
    if found := re.fullmatch(pattern, question):
      return rule(facts, *found.groups())
  return _UNKNOWN


def _only(answers: Sequence[str]) -> str:
  """The only answer, or "unknown"."""
  return answers[0] if len(answers) == 1 else _UNKNOWN


def _yes_no(is_so: bool) -> str:
  return "yes" if is_so else "no"


def _digits(facts: Facts) -> list[int]:
  return sorted(fact[1] for fact in facts if fact[0] == "digit")


def _pairs(facts: Facts) -> list[tuple[int, int]]:
  return sorted(fact[1:] for fact in facts if fact[0] == "pair")


def _count(facts: Facts, digit: int) -> int:
  counts = [f[2] for f in facts if f[0] == "count" and f[1] == digit]
  return counts[0] if counts else int(digit in _digits(facts))


def _number(facts: Facts) -> str:
  return _only([DIGIT_WORDS[digit] for digit in _digits(facts)])


def _number_of_color(facts: Facts, color: str) -> str:
  pairs = _pairs(facts)
  return _only([DIGIT_WORDS[d] for d, c in pairs if COLORS[c] == color])


def _color(facts: Facts, name: str) -> str:
  pairs = _pairs(facts)
  if name != "number":
    pairs = [pair for pair in pairs if DIGIT_WORDS[pair[0]] == name]
  return _only(sorted({COLORS[color] for _, color in pairs}))


def _is_color(facts: Facts, color: str) -> str:
  return _yes_no(any(COLORS[c] == color for _, c in _pairs(facts)))


def _is_there(facts: Facts, name: str) -> str:
  return _yes_no(DIGIT_WORDS.index(name) in _digits(facts))


def _is_there_pair(facts: Facts, color: str, name: str) -> str:
  asked = DIGIT_WORDS.index(name), COLORS.index(color)
  return _yes_no(asked in _pairs(facts))


def _how_many(facts: Facts, name: str) -> str:
  return DIGIT_WORDS[_count(facts, PLURALS.index(name))]


def _how_many_numbers(facts: Facts) -> str:
  total = sum(_count(facts, digit) for digit in _digits(facts))
  return DIGIT_WORDS[total] if total < len(DIGIT_WORDS) else _UNKNOWN


def _is_relation(facts: Facts, first: str, relation: str, second: str) -> str:
  digits = DIGIT_WORDS.index(first), DIGIT_WORDS.index(second)
  return _yes_no(relation_fact(digits[0], relation, digits[1]) in facts)


def _what_relation(facts: Facts, relation: str, name: str) -> str:
  second = DIGIT_WORDS.index(name)
  firsts = [
    digit
    for digit in _digits(facts)
    if relation_fact(digit, relation, second) in facts
  ]
  return _only([DIGIT_WORDS[digit] for digit in firsts])


_RULES: tuple[tuple[str, Callable[..., str]], ...] = (
  (r"what number is it\?", _number),
  (rf"what number is {_COLOR}\?", _number_of_color),
  (rf"what color is the (number|{'|'.join(DIGIT_WORDS)})\?", _color),
  (rf"is it {_COLOR}\?", _is_color),
  (rf"is there an? {_DIGIT}\?", _is_there),
  (rf"is there an? {_COLOR} {_DIGIT}\?", _is_there_pair),
  (rf"how many {_PLURAL} are there\?", _how_many),
  (r"how many numbers are there\?", _how_many_numbers),
  (rf"is the {_DIGIT} {_RELATION} the {_DIGIT}\?", _is_relation),
  (rf"what is {_RELATION} the {_DIGIT}\?", _what_relation),
)
