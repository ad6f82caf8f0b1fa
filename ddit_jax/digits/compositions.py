"""Names of digits and colours, and the compositions training never shows."""

import itertools

DIGIT_WORDS = (
  *("zero", "one", "two", "three", "four"),
  *("five", "six", "seven", "eight", "nine"),
)
PLURALS = (
  *("zeros", "ones", "twos", "threes", "fours"),
  *("fives", "sixes", "sevens", "eights", "nines"),
)
COLORS = (
  *("red", "orange", "yellow", "green"),
  *("cyan", "blue", "purple", "pink"),
)
HUES = (0, 30, 60, 120, 180, 230, 280, 325)  # degrees, in the order of COLORS
MAX_COUNT = 4


def is_held_out_pair(digit: int, color: int) -> bool:
  """True for 16 of the 80 (digit, index of colour) pairs: two a colour."""
  return (3 * digit + color) % 5 == 0


def is_held_out_digits(first: int, second: int) -> bool:
  """True for 9 of the 45 unordered pairs of different digits.

  A digit beside itself is a count, never a held-out pair.
  """
  return first != second and (first + second) % 5 == 0


def is_held_out_count(digit: int, count: int) -> bool:
  """True for 4 of the 30 (digit, count) with counts 2 to 4.

  A count of one is never held out: every single digit stays seen.
  """
  return count >= 2 and (digit + 2 * count) % 7 == 0


PAIRS = tuple(itertools.product(range(len(DIGIT_WORDS)), range(len(COLORS))))
DIGIT_PAIRS = tuple(itertools.combinations(range(len(DIGIT_WORDS)), 2))
COUNTS = tuple(
  itertools.product(range(len(DIGIT_WORDS)), range(2, MAX_COUNT + 1))
)
SEEN_COLORS = tuple(
  tuple(c for c in range(len(COLORS)) if not is_held_out_pair(d, c))
  for d in range(len(DIGIT_WORDS))
)


def article(word: str) -> str:
  """The indefinite article for the next word: an eight, an orange seven."""
  return "an" if word in ("eight", "orange") else "a"
