"""Handwritten digits of scikit-learn, split by who wrote them."""

import dataclasses
import functools

import numpy as np
from sklearn import datasets

# First row of each of the 14 writing forms: the labels repeat one dictation
# of about 130 digits. 906 and 1545 lie inside two runs of double length and
# are known to within two rows.
FORM_STARTS = (
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
    images: uint8 [n, 8, 8], ink from 0 (none) to 16 (full).
    labels: int64 [n], the digit 0 to 9.
    forms: int64 [n], the writing form 0 to 13, which stands for the writer.
  """

  images: np.ndarray
  labels: np.ndarray
  forms: np.ndarray

  @functools.cached_property
  def rows(self) -> tuple[np.ndarray, ...]:
    """For each digit 0 to 9, the rows that show it."""
    return tuple(np.flatnonzero(self.labels == digit) for digit in range(10))

  @functools.cached_property
  def is_training(self) -> bool:
    """True if every glyph comes from a writer of the training split."""
    return bool(np.isin(self.forms, _FORMS["train"]).all())


@functools.cache
def handwriting(split: str) -> Handwriting:
  """The writers of one split: 1157 train, 258 validation, 382 test images.

  Whole forms, because a random split would put every test writer into
  training too. Arrays are read-only, since all callers share them.

  Raises:
    ValueError: if `split` is none of SPLITS.
  """
  if split not in SPLITS:
    raise ValueError(
      f"there is no split {split!r} of the digits; choose one of {SPLITS}"
    )
  digits = datasets.load_digits()
  forms = np.searchsorted(
    FORM_STARTS, np.arange(len(digits.target)), side="right"
  )
  forms = (forms - 1).astype(np.int64)
  is_kept = np.isin(forms, _FORMS[split])
  arrays = {
    "images": digits.images[is_kept].astype(np.uint8),
    "labels": digits.target[is_kept].astype(np.int64),
    "forms": forms[is_kept],
  }
  for array in arrays.values():
    array.setflags(write=False)
  return Handwriting(**arrays)
