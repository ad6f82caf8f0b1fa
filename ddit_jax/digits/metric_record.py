"""One metric as it is stored: the value, how sure it is, and what frames it."""

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from ddit_jax.evaluation import bootstrap

Metrics = dict[str, dict[str, Any]]  # name -> record


def metric_record(
  values: Sequence[float] | np.ndarray,
  *,
  ceiling: float,
  baseline: float,
  weights: Sequence[float] | np.ndarray | None = None,
  groups: Sequence[Hashable] | None = None,
  strata: Sequence[Hashable] | None = None,
  seed: int = 0,
) -> dict[str, Any]:
  """The mean of `values` beside its ceiling and its baseline, for JSON.

  Args:
    values: one score an item, in [0, 1].
    ceiling: what perfect output would score here.
    baseline: what output that ignores its input scores.
    weights: of the items, see bootstrap.mean_interval.
    groups: of the items, see there.
    strata: of the items, see there.
    seed: of the bootstrap.

  Returns:
    "value", "n" (items), "interval" ([low, high], 95 %), "ceiling" and
    "baseline"; all but n lie in [0, 1].

  Raises:
    ValueError: as bootstrap.mean_interval.
  """
  estimate = bootstrap.mean_interval(
    values, weights=weights, groups=groups, strata=strata, seed=seed
  )
  return {
    "value": estimate.value,
    "n": estimate.n,
    "interval": [estimate.low, estimate.high],
    "ceiling": float(ceiling),
    "baseline": float(baseline),
  }


def other_items(
  labels: Sequence[Hashable], rng: np.random.Generator
) -> np.ndarray:
  """For each item the index of another, drawn among those labelled otherwise.

  Judging an item by another's output shows what the same outputs score
  without regard to their inputs. Returns int64 [n].

  Raises:
    ValueError: if all labels are equal.
  """
  if len(set(labels)) < 2:
    raise ValueError(
      f"all {len(labels)} items ask for the same, so none can serve as "
      "another's baseline: score at least two different ones together"
    )
  others = rng.integers(len(labels), size=len(labels))
  for item, label in enumerate(labels):
    while labels[others[item]] == label:
      others[item] = rng.integers(len(labels))
  return others


def rows_by(labels: Sequence[Hashable]) -> dict[Hashable, np.ndarray]:
  """The rows of each label, in order of first appearance."""
  rows: dict[Hashable, list[int]] = {}
  for row, label in enumerate(labels):
    rows.setdefault(label, []).append(row)
  return {label: np.array(found) for label, found in rows.items()}


def held_out_cells(is_held_out: Sequence[bool]) -> dict[str, np.ndarray]:
  """Rows of all items, of the held-out and of the seen ones, by name suffix.

  A cell without rows is left out: there is nothing to report.
  """
  flags = np.asarray(is_held_out, bool)
  cells = {
    "": np.arange(len(flags)),
    "_heldout_pairs": np.flatnonzero(flags),
    "_seen_pairs": np.flatnonzero(~flags),
  }
  return {suffix: rows for suffix, rows in cells.items() if len(rows)}


def check_lengths(items: Sequence, outputs: Sequence, name: str) -> None:
  """Raises ValueError unless there is one output an item, and at least one."""
  if not len(items) or len(items) != len(outputs):
    raise ValueError(
      f"{len(items)} items for {len(outputs)} {name}: give one each, and at "
      "least one"
    )
