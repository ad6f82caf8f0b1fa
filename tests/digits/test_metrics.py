"""Records and their helpers on small literal cases."""

import json

import numpy as np
import pytest

from ddit_jax.digits.metrics import (
  check_lengths,
  held_out_rows,
  metric_record,
  other_items,
  rows_by,
)


def test_record_is_plain_json_with_its_frame():
  record = metric_record(
    np.array([True, False, True, True]),
    oracle=np.float64(1),
    prior_baseline=0.1,
  )
  assert json.loads(json.dumps(record)) == record
  assert set(record) == {"value", "n", "interval", "oracle", "prior_baseline"}
  assert (record["value"], record["n"]) == (0.75, 4)
  low, high = record["interval"]
  assert 0 <= low < 0.75 < high <= 1
  assert (record["oracle"], record["prior_baseline"]) == (1, 0.1)


def test_another_item_never_asks_for_the_same():
  labels = ["a"] * 50 + ["b"] * 3 + ["c"]
  others = other_items(labels, np.random.default_rng(0))
  assert all(
    labels[other] != label for label, other in zip(labels, others, strict=True)
  )
  assert set(others[:50]) == {50, 51, 52, 53}
  with pytest.raises(ValueError, match="all 3 items ask for the same"):
    other_items(["a"] * 3, np.random.default_rng(0))


def test_rows_come_by_label_and_by_cell():
  rows = {k: v.tolist() for k, v in rows_by(["x", "y", "x"]).items()}
  assert rows == {"x": [0, 2], "y": [1]}
  cells = {k: v.tolist() for k, v in held_out_rows([True, False]).items()}
  assert cells == {"": [0, 1], "_heldout_pairs": [0], "_seen_pairs": [1]}
  assert set(held_out_rows([False])) == {"", "_seen_pairs"}


def test_unequal_or_empty_input_is_named():
  with pytest.raises(ValueError, match="2 items for 1 captions"):
    check_lengths([1, 2], ["x"], "captions")
  with pytest.raises(ValueError, match="at least one"):
    check_lengths([], [], "captions")
