"""What benchmarks/gpu.sh runs and the table that it prints."""

import os
import subprocess
import sys

import pytest

from benchmarks import gpu
from ddit_jax.experiment.abstract_step import AbstractStep


def test_the_table_divides_by_the_products_rate_and_by_the_peers_speed():
  parts = [
    {"part": "matmul", "device": "gpu", "flops_per_second": 800e12},
    {
      "part": "images",
      "batch": {"text_to_image": 32},
      "seconds": 0.5,
      "examples_per_second": 64.0,
      "model_flops_per_second": 400e12,
      "peak_bytes": 60,
      "planned_bytes": 50,
      "longest_operations": {"fusion": 0.25},
    },
    {
      "part": "images_diffusers",
      "batch": {"text_to_image": 32},
      "seconds": 1.0,
      "examples_per_second": 32.0,
      "model_flops_per_second": 200e12,
    },
    {"part": "sampling", "error": "no time was left"},
  ]
  printed = gpu.table(parts)
  assert "Matrix product: 800.0 TFLOP/s" in printed
  assert "| images | 32 | 500.0 | 64.0 | 400.0 | 50.0% | 1.20 |" in printed
  assert "| images_diffusers | 32 | 1000.0 | 32.0 | 200.0 | 25.0% | - |" in (
    printed
  )
  assert "Image loss against diffusers: 2.00 x" in printed
  assert "| sampling | no time was left | " in printed
  assert "Longest in images: fusion 25.0%" in printed


@pytest.mark.parametrize(
  ("argv", "message"),
  [
    (["matmul", "--sid=8"], "matmul does not know --sid=8"),
    (["matmul", "x"], "matmul does not know x"),
    (["diffusers", "--config.seed=1"], "diffusers does not know --config.seed"),
    (["step", "--bach=8"], "step does not know --bach=8"),
    (["step"], "step needs --config=FILE.py:variant"),
    (["table"], "table needs one file of parts"),
  ],
)
def test_wrong_flags_are_named(argv, message, monkeypatch, capsys):
  monkeypatch.setattr(sys, "argv", ["gpu.py", *argv])
  with pytest.raises(SystemExit) as caught:
    gpu.main()
  assert caught.value.code == 2
  assert message in capsys.readouterr().err


def test_unknown_parts_are_refused_before_the_first_one(tmp_path):
  env = os.environ | {"PARTS": "table matmull", "OUT": str(tmp_path / "out")}
  run = subprocess.run(
    ["benchmarks/gpu.sh"], env=env, capture_output=True, text=True
  )
  assert run.returncode == 2
  assert "unknown part table, there are matmul stage1 " in run.stderr
  assert not (tmp_path / "out").exists()


def test_the_step_is_that_of_training_on_this_chip(monkeypatch):
  asked = []

  def of(config, mesh, device_kind=""):
    asked.append((config.train.weight_gathering, device_kind))
    raise InterruptedError

  monkeypatch.setattr(AbstractStep, "of", of)
  with pytest.raises(InterruptedError):
    gpu.Step("configs/ddit_sd3.py:stage1_dry", {}, 8)
  # A CPU gathers weights per use: "chip" is spelled out.
  assert asked == [("per_use", "cpu")]
