"""The mean of per-item scores with a percentile bootstrap interval."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64, Num

_DRAWS_PER_BLOCK = 4_000_000  # bounds memory: 32 MB of indices at a time


@dataclass(frozen=True, kw_only=True)
class Estimate:
  """A mean with its confidence interval.

  Attributes:
    value: mean over all items.
    n: number of items.
    low: lower end of the interval.
    high: upper end of the interval.
  """

  value: float
  n: int
  low: float
  high: float


def mean_interval(
  values: Sequence[float] | np.ndarray,
  *,
  weights: Sequence[float] | np.ndarray | None = None,
  groups: Sequence[Hashable] | None = None,
  strata: Sequence[Hashable] | None = None,
  resamples: int = 2000,
  level: float = 0.95,
  seed: int = 0,
) -> Estimate:
  """Mean of `values` with its percentile bootstrap interval.

  Items of one group (the images of one prompt, the questions of one image)
  are not independent, so whole groups are resampled with replacement. With
  strata (the tasks of a benchmark) the mean is the plain mean of the strata's
  means, and groups are resampled within each stratum.

  Args:
    values: one finite score an item, [n].
    weights: the weight of each item, [n], at least 0; without it all weigh
      the same. A ratio of sums is a mean so weighted: precision is the mean
      of matched / stated with weight stated. Zero total weight gives 0.
    groups: the group of each item, [n]; without it each item is its own group.
    strata: the stratum of each item, [n]; without it there is only one.
    resamples: number of bootstrap resamples.
    level: fraction of resampled means inside the interval, in (0, 1).
    seed: of the resampling; equal arguments give equal intervals.

  Raises:
    ValueError: for no values, values or weights that are not finite, negative
      weights, arguments of unequal length, no resamples, or a level outside
      (0, 1).
  """
  scores = np.asarray(values, np.float64)
  sizes = np.ones(len(scores)) if weights is None else np.asarray(weights)
  _check(scores, sizes, resamples=resamples, level=level)
  group_of = _indices(groups, default=range(len(scores)))
  stratum_of = _indices(strata, default=[0] * len(scores))
  if not len(scores) == len(sizes) == len(group_of) == len(stratum_of):
    raise ValueError(
      f"{len(scores)} values, {len(sizes)} weights, {len(group_of)} groups "
      f"and {len(stratum_of)} strata: give one of each an item"
    )
  rng = np.random.default_rng(seed)
  means, resampled = [], []
  for stratum in range(stratum_of.max() + 1):
    rows = stratum_of == stratum
    sums, totals = _group_sums(scores[rows], sizes[rows], group_of[rows])
    means.append(_ratio(sums.sum(), totals.sum()))
    resampled.append(_resampled_means(sums, totals, rng, resamples))
  low, high = np.quantile(
    np.mean(resampled, axis=0), [(1 - level) / 2, (1 + level) / 2]
  )
  return Estimate(
    value=float(np.mean(means)),
    n=len(scores),
    low=float(low),
    high=float(high),
  )


def _check(
  scores: Float[np.ndarray, "..."],
  sizes: Num[np.ndarray, "..."],
  *,
  resamples: int,
  level: float,
) -> None:
  if scores.ndim != 1 or not len(scores):
    raise ValueError(
      f"values must be a list of at least one score, got shape {scores.shape}"
    )
  if not np.isfinite(scores).all():
    raise ValueError(
      f"{int((~np.isfinite(scores)).sum())} of {len(scores)} values are not "
      "finite: score such items 0 or leave them out before averaging"
    )
  if not np.isfinite(sizes).all() or (sizes < 0).any():
    raise ValueError("weights must be finite and at least 0")
  if resamples < 1 or not 0 < level < 1:
    raise ValueError(
      f"resamples must be at least 1 and level in (0, 1), got {resamples} "
      f"and {level}"
    )


def _indices(
  labels: Sequence[Hashable] | None, *, default: Sequence[int]
) -> Int64[np.ndarray, " items"]:
  """Labels as integers 0, 1, ... in order of appearance."""
  index_of: dict[Hashable, int] = {}
  return np.array(
    [
      index_of.setdefault(label, len(index_of))
      for label in (default if labels is None else labels)
    ],
    np.int64,
  )


def _group_sums(
  scores: Float[np.ndarray, " items"],
  sizes: Num[np.ndarray, " items"],
  group_of: Int64[np.ndarray, " items"],
) -> tuple[Float[np.ndarray, " groups"], Float[np.ndarray, " groups"]]:
  """Sums of the weighted scores and of the weights of each group present."""
  is_here = np.bincount(group_of) > 0
  sums = np.bincount(group_of, scores * sizes)
  return sums[is_here], np.bincount(group_of, sizes)[is_here]


def _resampled_means(
  sums: Float[np.ndarray, " groups"],
  sizes: Float[np.ndarray, " groups"],
  rng: np.random.Generator,
  resamples: int,
) -> Float[np.ndarray, " resamples"]:
  """Means of `resamples` draws of len(sums) groups."""
  block = max(1, _DRAWS_PER_BLOCK // len(sums))
  means = []
  for start in range(0, resamples, block):
    rows = min(block, resamples - start)
    sampled = rng.integers(len(sums), size=(rows, len(sums)))
    means.append(_ratio(sums[sampled].sum(axis=1), sizes[sampled].sum(axis=1)))
  return np.concatenate(means)


def _ratio(sums: np.ndarray, sizes: np.ndarray) -> np.ndarray:
  """sums / sizes, and 0 where there is no size."""
  return np.divide(sums, sizes, out=np.zeros(np.shape(sums)), where=sizes > 0)
