"""The page of every config's step."""

import dataclasses
import importlib
import json

import pytest

from tests.configs.test_all_configs import VARIANTS


@pytest.fixture
def step_table(monkeypatch):
  monkeypatch.syspath_prepend("benchmarks")
  return importlib.import_module("step_table")


def test_no_variant_is_forgotten(step_table):
  named = {name: set(some) for name, some in step_table.VARIANTS.items()}
  assert named == {name: set(some) for name, some in VARIANTS.items()}


def test_the_page_in_docs_is_of_the_configs_plans_and_runs(step_table):
  found = step_table.PAGE.read_text()
  for name, variants in step_table.VARIANTS.items():
    for variant in variants:
      assert f"`{name}`" in found and f"`{variant}`" in found
  steps = [
    step_table.step_of("digits", "cpu"),
    step_table.step_of("post_training", "nft"),
  ]
  made = step_table.page(steps, *step_table.read_pages())
  *_, digits, drawn = made.splitlines()
  assert digits in found, "run python benchmarks/step_table.py"
  assert " | 12 + 0 | - | - | - | - | - | - | " in drawn


def test_a_row_has_work_plans_and_runs_and_equal_ones_share_it(step_table):
  step = step_table.Step(
    config="a:one",
    num_parameters=2_102_856_100,
    batch=(512, 256),
    flops={"network": 1_400e12, "text_encoder": 0.0312e12},
    ideal_seconds=0.0317,
  )
  same = dataclasses.replace(step, config="a:two")
  plan = {
    "config": "b:one",
    "step": "train",
    "topology": "v5p:2x2",
    "num_slices": 1,
    "is_quick": False,
    "step_seconds": [0.198, 0.209],
    "mfu": [0.371, 0.374],
    "images_per_second": [4900.2, 5100.1],
  }
  quick = plan | {"num_slices": 2, "is_quick": True}
  shapes = plan | {"config": "a:one", "step_seconds": None}
  run = {
    "config": "b:one",
    "on": "a chip",
    "images_per_second": 341.3,
    "model_tflops_per_second": 0.02589,
  }
  other = dataclasses.replace(step, config="b:one")
  rows = step_table.page([step, same, other], [plan, quick, shapes], [run])
  first, second = rows.splitlines()[-2:]
  common = "2,102.9 M | 512 + 256 | 1,400 | 0.0312 | - | - | 31.7 |"
  assert first == f"| `a`: `one`, `two` | {common} - | - |"
  assert second == (
    f"| `b`: `one` | {common} v5p:2x2: 198 to 209 ms, MFU 37 %, 4,900 to 5,100 "
    "images/s; 2 x v5p:2x2 (quick): 198 to 209 ms, MFU 37 %, 4,900 to 5,100 "
    "images/s | a chip: 341 images/s, 25.9 GFLOP/s |"
  )


def test_a_runs_speed_is_the_median_of_its_log(step_table, tmp_path):
  (tmp_path / "config.json").write_text(json.dumps({"name": "a:one"}))
  rates = [(1.0, 4.0), (9.0, 2.0), (2.0, 3.0)]
  lines = [
    {
      "step": step,
      "speed/images_per_second": images,
      "speed/model_tflops_per_second": tflops,
    }
    for step, (images, tflops) in enumerate(rates)
  ]
  text = "\n".join(map(json.dumps, [*lines, {"step": 3, "loss/text": 1.0}]))
  (tmp_path / "scalars.jsonl").write_text(text)
  assert step_table.measured_run(tmp_path, "here") == {
    "config": "a:one",
    "on": "here",
    "images_per_second": 2.0,
    "model_tflops_per_second": 3.0,
  }
  (tmp_path / "scalars.jsonl").write_text(json.dumps({"step": 3}))
  with pytest.raises(SystemExit, match="has logged no speed/images_per_second"):
    step_table.measured_run(tmp_path, "here")
