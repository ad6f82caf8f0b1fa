"""The plan of a small step for four chips that are not there."""

import importlib.util
import json
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
HAS_LIBTPU = importlib.util.find_spec("libtpu") is not None

pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(
    not HAS_LIBTPU, reason="needs libtpu: pip install '.[tpu]'"
  ),
]


def run(*arguments):
  """The benchmark's process; its warnings and table are on stderr."""
  return subprocess.run(
    [sys.executable, "benchmarks/compile_full_step.py", *arguments],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=True,
    timeout=600,
  )


def test_a_tiny_step_compiles_for_a_slice_of_four():
  result = run(
    "--config=configs/digits.py",
    "--topology=v5e:2x2",
    "--mesh=2,2,1,1",
    "--batch=16",
    "--remat=full",
  )
  plan = json.loads(result.stdout)
  assert plan["device"] == "TPU v5 lite"
  assert tuple(plan["mesh"].values()) == (2, 2, 1, 1)
  assert plan["batch"] == {"text_to_image": 16, "image_to_text": 16}
  memory = plan["memory_gib"]
  # Parameters, average and two moments in float32, on two devices each; the
  # rest is the batch, the position table and padding to tiles.
  state = 4 * 4 * plan["parameters"] / 2 / 2**30
  assert state < memory["argument"] < 2 * state
  # All of the state is donated.
  assert memory["alias"] == pytest.approx(memory["output"], rel=0.01)
  # So small a step may keep all else in the chip's own fast memory.
  assert 0 <= memory["temp"] < memory["total"] < memory["hbm"] == 16
  collectives = plan["collectives"]
  assert collectives["loops_of_unknown_length"] == 0
  assert collectives["all-gather"]["runs"] > 0
  # Gradients cross both mesh axes.
  assert {"reduce-scatter", "all-reduce"} & set(collectives)
  flops = plan["flops"]
  # Everything inside the blocks is run four times in place of three.
  assert 1.25 < flops["traced_by_model"] < 1.35
  assert flops["ideal_seconds"] == pytest.approx(
    flops["model_teraflop_a_device"] / 197
  )
  assert "memory_gib" in result.stderr
