"""Results of `ddit score` against each other."""

import copy
import json

import pytest

from ddit_jax.errors import InputError
from ddit_jax.scoring.comparison import (
  compare,
  comparison_report,
  read_score_file,
)

RESULT = {
  "benchmark": "vqav2",
  "figures": {"accuracy": 50.0},
  "references": {"a.json": "0f"},
  "items": {
    "accuracy": {
      "ids": ["1", "2"],
      "groups": ["x", "y"],
      "scores": [100.0, 0.0],
      "strata": [],
    }
  },
}


@pytest.fixture
def read(tmp_path):
  def write(change=None, name="second.json"):
    body = copy.deepcopy(RESULT)
    if change:
      change(body)
    (tmp_path / name).write_text(json.dumps(body))
    return read_score_file(tmp_path / name)

  return write


def items_of(body):
  return body["items"]["accuracy"]


def test_items_are_matched_by_id(read):
  def turned(body):
    items_of(body).update(ids=["2", "1"], scores=[100.0, 100.0])

  first, second = read(name="first.json"), read(turned)
  found = compare(first, second)["accuracy"]
  assert found.difference.value == 50 and found.better == 1
  report = comparison_report(first, second, {"accuracy": found})
  assert report["differences"]["accuracy"]["difference"]["value"] == 50


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda b: b.update(benchmark="gqa"), "only results of one benchmark"),
    (lambda b: b.update(references={"a.json": "1f"}), "different references"),
    (
      lambda b: items_of(b).update(ids=["1", "3"]),
      "1 of them missing there .2",
    ),
    (lambda b: b.update(items={}), "has no items of 'accuracy'"),
  ],
)
def test_other_runs_do_not_compare(read, change, message):
  with pytest.raises(InputError, match=message):
    compare(read(name="first.json"), read(change))


def test_a_distance_has_no_items_to_test(read):
  def bare(body):
    body["items"] = {}

  with pytest.raises(InputError, match="nothing can be tested"):
    compare(read(bare, "first.json"), read(bare))


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda b: b.pop("items"), "from ddit score --out.* has no"),
    (lambda b: items_of(b).pop("ids"), 'has no "ids"'),
    (lambda b: items_of(b).update(ids=[1, 2]), "must be texts"),
    (lambda b: items_of(b).update(ids=["1", "1"]), "different from each other"),
    (lambda b: items_of(b).update(scores=[1.0]), "one group and score"),
    (lambda b: items_of(b).update(scores=[True, 1.0]), "finite numbers"),
    (lambda b: items_of(b).update(scores=[1.0, 1e999]), "finite numbers"),
    (lambda b: items_of(b).update(scores=[1.0, 10**400]), "finite numbers"),
    (lambda b: b["references"].update(b=1), "references: .* must be a text"),
    (lambda b: items_of(b).update(strata=["x"]), "one group and score"),
  ],
)
def test_other_files_are_refused(read, change, message):
  with pytest.raises(InputError, match=message):
    read(change)
