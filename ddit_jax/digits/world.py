"""The digit world: its words, held-out compositions, sizes and glyphs."""

import dataclasses
import functools
import importlib.util
import itertools
import pathlib

import numpy as np
from jaxtyping import Float, Int64, UInt8

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
  """True for 16 of the 80 (digit, colour index) pairs: two per colour."""
  return (3 * digit + color) % 5 == 0


def is_held_out_digits(first: int, second: int) -> bool:
  """True for 9 of the 45 unordered pairs of different digits.

  Two equal digits are a count, never a held-out pair.
  """
  return first != second and (first + second) % 5 == 0


def is_held_out_count(digit: int, count: int) -> bool:
  """True for 4 of the 30 (digit, count) with counts 2 to 4.

  A count of one is never held out, so training shows every single digit.
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class World:
  """Sizes of one world, in pixels.

  Attributes:
    canvas: side of the square image.
    digit_size: side of the square cell of a digit.
    max_objects: largest number of digits in a scene, 1 to 4.
    jitter_px: only with `max_objects` 1: largest offset of the digit's centre
      from the centre of the canvas, uniform on both axes.
    saturation: of every colour, 0 (white) to 1.
  """

  canvas: int
  digit_size: int
  max_objects: int
  jitter_px: float = 0.0
  saturation: float = 0.75

  def __post_init__(self):
    if not 1 <= self.max_objects <= MAX_COUNT:
      raise ValueError(
        f"max_objects is {self.max_objects}; it must be 1 to {MAX_COUNT}"
      )
    if self.digit_size < 8:
      raise ValueError(
        f"digit_size is {self.digit_size}; the 8 x 8 glyphs are only ever "
        "enlarged, so it must be at least 8"
      )
    if not 0 <= self.saturation <= 1:
      raise ValueError(f"saturation is {self.saturation}; it must be in [0, 1]")
    if self.jitter_px < 0:
      raise ValueError(f"jitter_px is {self.jitter_px}; it cannot be negative")
    if self.canvas < self.needed_canvas:
      raise ValueError(
        f"canvas is {self.canvas}; {self.max_objects} digits of "
        f"{self.digit_size} px need at least {self.needed_canvas} px"
      )

  @property
  def is_one_digit(self) -> bool:
    """True if every scene holds exactly one digit."""
    return self.max_objects == 1

  @property
  def gap(self) -> float:
    """Smallest distance between two cells; less makes counting unreliable."""
    return max(3.0, self.digit_size / 4)

  @property
  def needed_canvas(self) -> float:
    """The smallest canvas on which every allowed scene fits."""
    if self.is_one_digit:
      return self.digit_size + 2 * self.jitter_px
    return 2 * self.digit_size + self.gap


WORLDS = {
  "one_digit": World(canvas=16, digit_size=13, max_objects=1, jitter_px=0.5),
  "scenes_32": World(canvas=32, digit_size=10, max_objects=4),
  "scenes_48": World(canvas=48, digit_size=16, max_objects=4),
}


OPPOSITES = {
  "left of": "right of",
  "right of": "left of",
  "above": "below",
  "below": "above",
}
RELATIONS = tuple(OPPOSITES)


def clear_relation(dx: float, dy: float) -> str | None:
  """The relation of an object at offset (dx, dy) pixels; y points down.

  None on a diagonal (the larger component is less than twice the smaller)
  or for a zero offset.
  """
  wide, high = abs(dx), abs(dy)
  if max(wide, high) == 0 or max(wide, high) < 2 * min(wide, high):
    return None
  if wide > high:
    return "left of" if dx < 0 else "right of"
  return "above" if dy < 0 else "below"


def loose_relations(dx: float, dy: float) -> tuple[str, ...]:
  """Every relation whose component exceeds half the length (GenEval's rule).

  On a diagonal two hold.
  """
  half = 0.5 * (dx * dx + dy * dy) ** 0.5
  holds = (dx < -half, dx > half, dy < -half, dy > half)
  return tuple(
    name for name, is_true in zip(RELATIONS, holds, strict=True) if is_true
  )


# First row of each of the 14 writing forms: the labels repeat one dictation of
# about 130 digits. 906 and 1545 split two runs of double length; they are
# exact to within two rows.
_FORM_STARTS = (
  *(0, 130, 256, 386, 516, 646, 776, 906, 1029),
  *(1157, 1287),
  *(1415, 1545, 1667),
)
_FORMS = {
  "train": range(0, 9),
  "validation": range(9, 11),
  "test": range(11, 14),
}
SPLITS = tuple(_FORMS)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Handwriting:
  """The glyphs of some writers.

  Attributes:
    images: ink from 0 (none) to 16 (full).
    labels: the digit 0 to 9.
    forms: the writing form 0 to 13, which stands for the writer.
  """

  images: UInt8[np.ndarray, "glyphs 8 8"]
  labels: Int64[np.ndarray, " glyphs"]
  forms: Int64[np.ndarray, " glyphs"]

  @functools.cached_property
  def rows(self) -> tuple[Int64[np.ndarray, " rows"], ...]:
    """For each digit 0 to 9, the rows that show it."""
    return tuple(np.flatnonzero(self.labels == digit) for digit in range(10))

  @functools.cached_property
  def is_training(self) -> bool:
    """True if every glyph comes from a writer of the training split."""
    return bool(np.isin(self.forms, _FORMS["train"]).all())


def _digits_table() -> Float[np.ndarray, "1797 65"]:
  """Rows of 64 pixels and a label, from scikit-learn's copy of the data set.

  Importing scikit-learn, as its `load_digits` does, takes every process 1.4 s.
  """
  [folder] = importlib.util.find_spec("sklearn").submodule_search_locations
  return np.loadtxt(
    pathlib.Path(folder, "datasets", "data", "digits.csv.gz"), delimiter=","
  )


@functools.cache
def handwriting(split: str) -> Handwriting:
  """The writers of one split: 1157 train, 258 validation, 382 test images.

  Splits whole forms: a random split would put every test writer into
  training too. Arrays are read-only because all callers share them.

  Raises:
    ValueError: if `split` is not in SPLITS.
  """
  if split not in SPLITS:
    raise ValueError(
      f"there is no split {split!r} of the digits; choose one of {SPLITS}"
    )
  table = _digits_table()
  forms = np.searchsorted(_FORM_STARTS, np.arange(len(table)), side="right")
  forms = (forms - 1).astype(np.int64)
  is_kept = np.isin(forms, _FORMS[split])
  arrays = {
    "images": table[is_kept, :64].reshape(-1, 8, 8).astype(np.uint8),
    "labels": table[is_kept, 64].astype(np.int64),
    "forms": forms[is_kept],
  }
  for array in arrays.values():
    array.setflags(write=False)
  return Handwriting(**arrays)
