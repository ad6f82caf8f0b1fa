"""The table of kept plans."""

import importlib
import json

import pytest


@pytest.fixture
def plan_table():
  return importlib.import_module("plan_table")


def test_the_page_in_docs_is_of_the_plans_beside_it(plan_table):
  path = plan_table.PLANS / "README.md"
  assert path.read_text() == plan_table.page(), (
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
    "is_quick": True,
  }
  shapes = dict.fromkeys(known) | {
    "mesh": {},
    "hbm_bytes": {"batch": 2**30, "ema": 2**30},
  }
  (tmp_path / "a.json").write_text(json.dumps(known))
  (tmp_path / "b.json").write_text(json.dumps(shapes))
  *_, first, second = plan_table.page(tmp_path).splitlines()
  assert first == (
    "| [a](a.json), quick | fsdp 8 | yes | 1.5 of 16 | 100.0 | 250.0 | 2.50 | "
    "2.0 | 0.5 | 30 to 40 | 1,000 |"
  )
  assert second == (
    "| [b](b.json) |  | - | > 2.0 of - | - | - | - | - | - | - | - |"
  )


def test_a_sweep_is_a_table_of_its_candidates(plan_table, tmp_path):
  plan = {
    "config": "ddit_sd3:stage1",
    "topology": "v5e:8x8",
    "num_slices": 2,
    "is_quick": True,
    "versions": {"jax": "0.10.2"},
    "fits": False,
    "hbm_peak_bytes": 17 * 2**30,
    "hbm_bytes": None,
    "compute_seconds": None,
    "step_seconds": [0.2, 0.3],
    "collective_bytes": None,
    "exposed_collective_bytes": None,
  }
  mesh = {"mesh.replica": "8", "mesh.fsdp": "8", "mesh.tensor": "1"}
  found = [
    {"changes": {}, "plan": plan, "refusal": "", "is_best": True},
    {"changes": mesh, "plan": None, "refusal": "no", "is_best": False},
  ]
  (tmp_path / "sweep_a.json").write_text(json.dumps(found))
  text = plan_table.page(tmp_path)
  assert "`ddit plan --sweep --quick` of ddit_sd3:stage1 on 2 x v5e:8x8" in text
  *_, first, second = text.splitlines()
  assert first == "| * | nothing | no | 17.0 | - | 200 to 300 | - | - |"
  assert second == (
    "|  | replica 8, fsdp 8 | refused: no | - | - | - | - | - |"
  )
