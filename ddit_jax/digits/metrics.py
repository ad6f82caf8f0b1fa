"""One metric with its interval, oracle and prior baseline; and helpers."""

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64

from ddit_jax.evaluation.bootstrap import mean_interval

Metrics = dict[str, dict[str, Any]]  # name -> `metric_record`


def metric_record(
  values: Sequence[float] | np.ndarray,
  *,
  oracle: float,
  prior_baseline: float,
  weights: Sequence[float] | np.ndarray | None = None,
  groups: Sequence[Hashable] | None = None,
  strata: Sequence[Hashable] | None = None,
  seed: int = 0,
) -> dict[str, Any]:
  """The mean of `values` with its interval and references, ready for JSON.

  Args:
    values: one score per item, in [0, 1] but for CIDEr.
    oracle: score of perfect output on these items.
    prior_baseline: score of output that ignores its input.
    weights: of the items, see `mean_interval`.
    groups: of the items, see `mean_interval`.
    strata: of the items, see `mean_interval`.
    seed: of the bootstrap.

  Returns:
    "value", "n" (items), "interval" ([low, high], 95 %), "oracle" and
    "prior_baseline"; all but n are in [0, 1], if the values are.

  Raises:
    ValueError: as `mean_interval`.
  """
  estimate = mean_interval(
    values, weights=weights, groups=groups, strata=strata, seed=seed
  )
  return {
    "value": estimate.value,
    "n": estimate.n,
    "interval": [estimate.low, estimate.high],
    "oracle": float(oracle),
    "prior_baseline": float(prior_baseline),
  }


def other_items(
  labels: Sequence[Hashable], rng: np.random.Generator
) -> Int64[np.ndarray, " items"]:
  """For each item the index of one with another label.

  Scoring an item on another item's output shows what the same outputs score
  when they ignore their inputs.

  Raises:
    ValueError: all labels are equal.
  """
  if len(set(labels)) < 2:
    raise ValueError(
      f"all {len(labels)} items ask for the same, so there is no prior "
      "baseline: score at least two different ones together"
    )
  others = rng.integers(len(labels), size=len(labels))
  for item, label in enumerate(labels):
    while labels[others[item]] == label:
      others[item] = rng.integers(len(labels))
  return others


def rows_by(
  labels: Sequence[Hashable],
) -> dict[Hashable, Int64[np.ndarray, "..."]]:
  """The rows of each label, in order of first appearance."""
  rows: dict[Hashable, list[int]] = {}
  for row, label in enumerate(labels):
    rows.setdefault(label, []).append(row)
  return {label: np.array(found) for label, found in rows.items()}


def held_out_rows(
  is_held_out: Sequence[bool] | Bool[np.ndarray, " items"],
) -> dict[str, Int64[np.ndarray, "..."]]:
  """Rows of all items, of the held-out and of the seen ones, by name suffix.

  Empty sets of rows are omitted.
  """
  flags = np.asarray(is_held_out, bool)
  rows_of = {
    "": np.arange(len(flags)),
    "_heldout_pairs": np.flatnonzero(flags),
    "_seen_pairs": np.flatnonzero(~flags),
  }
  return {suffix: rows for suffix, rows in rows_of.items() if len(rows)}


def check_lengths(items: Sequence, outputs: Sequence, name: str) -> None:
  """Raises ValueError unless each item has one output; at least one item."""
  if not len(items) or len(items) != len(outputs):
    raise ValueError(
      f"{len(items)} items for {len(outputs)} {name}: give one per item, and "
      "at least one item"
    )
