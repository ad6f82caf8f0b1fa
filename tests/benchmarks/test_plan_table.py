"""The table of kept plans."""

import importlib
import json

import pytest


@pytest.fixture
def plan_table():
  return importlib.import_module("plan_table")


def test_the_page_in_docs_is_of_the_plans_beside_it(plan_table):
  page = plan_table.PLANS / "README.md"
  assert page.read_text() == plan_table.table(), (
    "run python benchmarks/plan_table.py"
  )


def test_a_row_says_what_is_known(plan_table, tmp_path):
  known = {
    "mesh": {"replica": 1, "fsdp": 8},
    "fits": True,
    "hbm_peak_bytes": 3 * 2**29,
    "hbm_bytes": {"batch": 3 * 2**29},
    "hbm_limit_bytes": 16 * 2**30,
    "ideal_seconds": 0.1,
    "compute_seconds": 0.25,
    "collective_bytes": {"all-gather": 2**30, "all-reduce": 2**30},
    "exposed_collective_bytes": 2**29,
    "mfu": [0.301, 0.4],
    "images_per_second": [1000.2, 1000.4],
  }
  shapes = dict.fromkeys(known) | {
    "mesh": {},
    "hbm_bytes": {"batch": 2**30, "ema": 2**30},
  }
  (tmp_path / "a.json").write_text(json.dumps(known))
  (tmp_path / "b.json").write_text(json.dumps(shapes))
  *_, first, second = plan_table.table(tmp_path).splitlines()
  assert first == (
    "| [a](a.json) | fsdp 8 | yes | 1.5 of 16 | 100.0 | 250.0 | 2.50 | 2.0 | "
    "0.5 | 30 to 40 | 1,000 |"
  )
  assert second == (
    "| [b](b.json) |  | - | > 2.0 of - | - | - | - | - | - | - | - |"
  )
