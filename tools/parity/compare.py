"""Compares one of our arrays with the recorded one, under its tolerance."""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from parity.golden_set import ArrayEntry

# Our array; or several variants of it (one per format of weights) by label.
Values = np.ndarray | Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Check:
  """The error of one of our arrays against the recorded one.

  Attributes:
    entry: the recorded array.
    is_passed: whether it is within the tolerance.
    used: the largest fraction of the tolerance that an entry uses, without as
      many entries as may miss it; it passes up to 1.
    max_abs: largest absolute error.
    max_rel: largest relative error of an entry that is not zero.
    rel_l2: Euclidean norm of the errors over that of the reference.
    label: which variant was worst, if there are several.
    note: why it failed, unless by its error.
  """

  entry: ArrayEntry
  is_passed: bool
  used: float = math.inf
  max_abs: float = math.nan
  max_rel: float = math.nan
  rel_l2: float = math.nan
  label: str = ""
  note: str = ""

  @property
  def is_strict(self) -> bool | None:
    """Whether it satisfies the strict bound; None if there is none."""
    if self.entry.strict_rel_l2 is None:
      return None
    return self.rel_l2 <= self.entry.strict_rel_l2


def compare(entry: ArrayEntry, reference: np.ndarray, values: Values) -> Check:
  """The check of the worst variant."""
  if not isinstance(values, Mapping):
    values = {"": values}
  checks = (
    _compare_one(entry, reference, np.asarray(array), label)
    for label, array in values.items()
  )
  # A variant that could not be compared is the worst.
  return max(checks, key=lambda check: (not check.is_passed, check.used))


def not_checked(entry: ArrayEntry, note: str) -> Check:
  """A failure without numbers."""
  return Check(entry=entry, is_passed=False, note=note)


def _compare_one(
  entry: ArrayEntry, reference: np.ndarray, got: np.ndarray, label: str
) -> Check:
  if got.shape != reference.shape:
    note = f"ours has shape {got.shape}, not {reference.shape}"
    return dataclasses.replace(not_checked(entry, note), label=label)
  is_exact = np.issubdtype(reference.dtype, np.integer)
  reference = np.atleast_1d(reference).astype(np.float64)
  got = np.atleast_1d(got).astype(np.float64)
  # NaN and infinity, on either side, are infinite errors.
  is_finite = np.isfinite(got) & np.isfinite(reference)
  error = np.full(got.shape, np.inf)
  np.subtract(got, reference, out=error, where=is_finite)
  error, scale = np.abs(error), np.abs(np.where(is_finite, reference, 0.0))
  allowed = 0.0 if is_exact else entry.atol + entry.rtol * scale
  used = _used(error, allowed, entry.max_mismatch_fraction)
  is_nonzero = scale > 0
  relative = error[is_nonzero] / scale[is_nonzero]
  norm = float(np.linalg.norm(scale))
  distance = float(np.linalg.norm(error))
  return Check(
    entry=entry,
    is_passed=used <= 1,
    used=used,
    max_abs=float(error.max(initial=0.0)),
    max_rel=float(relative.max(initial=0.0)),
    rel_l2=distance / norm if norm else float(distance > 0),
    label=label,
  )


def _used(error: np.ndarray, allowed, may_miss: float) -> float:
  """See `Check.used`."""
  allowed = np.broadcast_to(allowed, error.shape)
  fractions = np.where(error > 0, np.inf, 0.0)
  np.divide(error, allowed, out=fractions, where=allowed > 0)
  num_free = math.floor(may_miss * fractions.size)
  if num_free >= fractions.size:
    return 0.0
  return float(np.sort(fractions, axis=None)[-1 - num_free])
