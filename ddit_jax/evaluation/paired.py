"""Whether two runs differ on the same items."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from scipy.stats import binomtest

from ddit_jax.evaluation.bootstrap import Estimate, mean_interval

_FLIPS = 10_000
_FLIPS_PER_BLOCK = 4_000_000  # bounds memory: 4 MB of signs at a time


@dataclass(frozen=True, kw_only=True)
class PairedDifference:
  """The second run against the first.

  Attributes:
    difference: mean of second - first, with the interval of a bootstrap over
      groups.
    p_value: two-sided, of a sign-flip test over groups: how often a
      difference at least as large comes about when in each group it is a coin
      toss which run is which.
    better: items on which the second run scores higher.
    worse: items on which it scores lower.
    mcnemar_p_value: exact, of the better and worse items; None unless every
      item is right or wrong. It takes items for independent.
  """

  difference: Estimate
  p_value: float
  better: int
  worse: int
  mcnemar_p_value: float | None


def paired_difference(
  first: Sequence[float] | np.ndarray,
  second: Sequence[float] | np.ndarray,
  *,
  groups: Sequence[Hashable] | None = None,
  strata: Sequence[Hashable] | None = None,
  seed: int = 0,
) -> PairedDifference:
  """Tests whether two runs have the same mean score.

  Args:
    first: a finite score for each item, [n].
    second: the other run's scores of the same items, [n].
    groups: the group of each item, [n], as in `mean_interval`.
    strata: the stratum of each item, [n], as in `mean_interval`.
    seed: of the bootstrap and of the coins.

  Raises:
    ValueError: unequal lengths, or as `mean_interval`.
  """
  before, after = np.asarray(first, float), np.asarray(second, float)
  if before.shape != after.shape:
    raise ValueError(
      f"{len(before)} scores of one run, {len(after)} of the other: give both "
      "on the same items"
    )
  difference = mean_interval(
    after - before, groups=groups, strata=strata, seed=seed
  )
  better, worse = int((after > before).sum()), int((after < before).sum())
  is_binary = len(np.unique(np.concatenate([before, after]))) <= 2
  return PairedDifference(
    difference=difference,
    p_value=_sign_flip_p_value(
      _shares(after - before, groups, strata), np.random.default_rng(seed)
    ),
    better=better,
    worse=worse,
    mcnemar_p_value=_mcnemar(better, worse) if is_binary else None,
  )


def _shares(
  differences: Float64[np.ndarray, " items"],
  groups: Sequence[Hashable] | None,
  strata: Sequence[Hashable] | None,
) -> Float64[np.ndarray, " groups"]:
  """What each group adds to the mean difference; they sum to it."""
  group_of = range(len(differences)) if groups is None else groups
  stratum_of = [0] * len(differences) if strata is None else strata
  sizes: dict[Hashable, int] = {}
  for stratum in stratum_of:
    sizes[stratum] = sizes.get(stratum, 0) + 1
  shares: dict[Hashable, float] = {}
  for group, stratum, difference in zip(
    group_of, stratum_of, differences, strict=True
  ):
    share = difference / sizes[stratum] / len(sizes)
    shares[group] = shares.get(group, 0.0) + share
  return np.array(list(shares.values()))


def _sign_flip_p_value(
  shares: Float64[np.ndarray, " groups"], rng: np.random.Generator
) -> float:
  """Share of sign flips with a sum at least as far from 0, the data's too."""
  shares = shares[shares != 0]
  if not len(shares):
    return 1.0
  # Sums in another order may differ in the last digit.
  least = abs(shares.sum()) * (1 - 1e-9)
  block = max(1, _FLIPS_PER_BLOCK // len(shares))
  as_far = 0
  for start in range(0, _FLIPS, block):
    rows = min(block, _FLIPS - start)
    is_kept = rng.integers(0, 2, (rows, len(shares)), dtype=np.int8)
    sums = (2.0 * is_kept - 1) @ shares
    as_far += int((np.abs(sums) >= least).sum())
  return (as_far + 1) / (_FLIPS + 1)


def _mcnemar(better: int, worse: int) -> float:
  total = better + worse
  return float(binomtest(better, total).pvalue) if total else 1.0
