"""Plans of a toy step for virtual devices, and for TPUs if libtpu is here."""

import contextlib
import dataclasses
import importlib.util
import io
import json
import pathlib

import pytest

from ddit_jax.cli.main import main
from ddit_jax.config.load import load_config
from ddit_jax.experiment.config import Config
from ddit_jax.pipelines.plan import StepPlan, make_plan
from ddit_jax.pipelines.plan_text import plan_text
from ddit_jax.planning.topology import open_topology
from tests import tiny_run

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
TOY = f"--config={CONFIGS}/ddit_sd3.py:stage1_dry"
KEYS = (
  "fits device_kind num_devices mesh hbm_limit_bytes hbm_peak_bytes hbm_bytes "
  "model_flops ideal_seconds compute_seconds kernel_seconds collective_bytes "
  "exposed_collective_bytes step_seconds mfu compile_seconds"
)


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
  """(the plan's JSON, its text) of a tiny step on eight virtual devices."""
  path = tmp_path_factory.mktemp("plan") / "plan.json"
  argv = [flag for flag in tiny_run.flags() if flag.startswith("--config")]
  argv += ["--topology=cpu:8", "--mesh=2,4", f"--json={path}"]
  with contextlib.redirect_stdout(io.StringIO()) as shown:
    assert main(["plan", *argv]) == 0
  return json.loads(path.read_text()), shown.getvalue()


def test_the_json_has_every_key(planned):
  found, _ = planned
  assert set(KEYS.split()) <= set(found)
  assert set(found) == {field.name for field in dataclasses.fields(StepPlan)}
  assert (found["device_kind"], found["num_devices"]) == ("cpu", 8)
  assert (found["mesh"]["replica"], found["mesh"]["fsdp"]) == (2, 4)
  assert found["hbm_peak_bytes"] == sum(found["hbm_bytes"].values())
  assert set(found["model_flops"]) == {"network"}


def test_what_a_cpu_does_not_tell_is_null_and_explained(planned):
  found, text = planned
  unknown = ("fits", "hbm_limit_bytes", "ideal_seconds", "compute_seconds")
  assert [found[key] for key in unknown] == [None] * 4
  assert found["step_seconds"] is found["mfu"] is None
  assert "the compiler of cpu estimates no cycles" in text
  assert "step time: not known" in text


def test_collectives_and_arrays_come_with_their_lines(planned):
  found, text = planned
  assert found["collective_bytes"]["all-gather"] > 0
  total = sum(found["collective_bytes"].values())
  assert 0 < found["exposed_collective_bytes"] <= total
  largest = found["largest_collectives"]
  assert len(largest) == len(found["largest_written"]) == 10
  assert any(one["source"].startswith("ddit_jax/") for one in largest)
  assert largest[0]["source"] in text


@pytest.mark.parametrize(
  ("argv", "message"),
  [
    (["--topology=v5x:8x8"], "unknown chip 'v5x'"),
    (["--topology=cpu:8", "--mesh=3,-1"], "needs 6 devices but there are 8"),
    (["--topology=cpu:8", "--quick"], "of TPUs, and cpu:8 has none"),
    (["--topology=cpu:8", "--mesh=2;4"], "--mesh=2;4: write sizes of"),
    (["--topology=cpu:8", "--mesh=1,1,1,1,1"], "write sizes of replica,fsdp"),
    (
      ["--topology=cpu:8", "--mesh=1", "--config.mesh.replica=2"],
      "--mesh and --config.mesh.replica set the same",
    ),
    (
      ["--topology=cpu:8", "--config.data.text_to_image.batch_size=12"],
      "data.text_to_image.batch_size = 12 is not divisible",
    ),
    (["--topology=cpu:8", "--json=no/where.json"], "there is no folder"),
    (["--topology=cpu:8", "--json=/"], "--json=/ is a folder: name a file"),
    (["--topology=cpu:8", "--step=t2x"], "--step=t2x: did you mean 't2i'?"),
    (["--topology=h100:1x8", "--sweep"], "--sweep compares memory and time"),
    ([], "--topology is missing"),
  ],
)
def test_bad_input_is_one_line(argv, message, capsys):
  assert main(["plan", TOY, *argv]) == 2
  line = capsys.readouterr().err
  assert message in line and line.count("\n") == 1


def test_gpus_have_the_figures_that_shapes_give():
  config = load_config(
    Config, f"{CONFIGS}/ddit_sd3.py:stage1", {"mesh.replica": "2"}
  )
  plan = make_plan(config, open_topology("h100:2x4"))
  assert plan.device_kind == "NVIDIA H100 80GB HBM3"
  assert (plan.num_devices, plan.mesh["fsdp"]) == (8, 4)
  assert plan.hbm_peak_bytes is plan.step_seconds is plan.fits is None
  # Float32, a quarter on each GPU, with two moments; T5 is on every one.
  params = plan.hbm_bytes["parameters"]
  assert params == pytest.approx(4 * plan.num_parameters / 4, rel=0.01)
  assert plan.hbm_bytes["optimizer"] == pytest.approx(2 * params, rel=0.01)
  assert plan.hbm_bytes["frozen_encoders"] > 2 * 4_762_310_656
  assert plan.ideal_seconds == pytest.approx(
    (plan.model_flops["network"] + plan.model_flops["text_encoder"])
    / (8 * 989e12)
  )
  assert "no collectives: the compiler of GPUs" in plan_text(plan)


def test_a_samplers_plan_does_not_ask_for_batches_of_training():
  config = tiny_run.settings(
    data__text_to_image__batch_size="12", sample__batch_size="8"
  )
  plan = make_plan(config, open_topology("h100:1x8"), "t2i")
  assert plan.batch == {"t2i": 8}


@pytest.mark.slow
@pytest.mark.parametrize("step", ["t2i", "i2t"])
def test_samplers_have_plans_too(step):
  config = load_config(Config, str(CONFIGS / "ddit_sd3.py:stage1_dry"), {})
  plan = make_plan(config, open_topology("cpu:8"), step)
  assert plan.batch == {step: config.sample.batch_size}
  kinds = {"parameters", "frozen_encoders", "constants", "batch"}
  assert kinds <= set(plan.hbm_bytes) and "optimizer" not in plan.hbm_bytes
  assert all(plan.model_flops.values())
  assert f"{step}, on cpu:8" in plan_text(plan)


@pytest.mark.slow
@pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None, reason="needs libtpu"
)
def test_a_plan_for_chips_that_are_not_there():
  config = load_config(
    Config,
    str(CONFIGS / "ddit_sd3.py:stage1_dry"),
    {"mesh.replica": "2", "mesh.fsdp": "2"},
  )
  plan = make_plan(config, open_topology("v5e:2x2"))
  assert (plan.device_kind, plan.fits) == ("TPU v5 lite", True)
  assert plan.hbm_limit_bytes == 16 * 2**30 > plan.hbm_peak_bytes
  ideal = sum(plan.model_flops.values()) - plan.model_flops["vae"]
  assert plan.ideal_seconds == pytest.approx(ideal / 4 / 197e12)
  kinds = plan.compute_seconds_by_kind
  # Short joint sequences in bfloat16 take a kernel, which has no cycles.
  assert plan.kernel_seconds > 0
  computed = plan.compute_seconds - plan.kernel_seconds
  assert computed == pytest.approx(sum(kinds.values()))
  # Every product is seen, whatever loops the compiler made of them.
  assert plan.compiled_flops * 4 > 0.95 * sum(plan.model_flops.values())
  assert not any("too low" in note for note in plan.notes)
  # Gradients cross both mesh axes.
  assert {"reduce-scatter", "all-reduce"} & set(plan.collective_bytes)
  low, high = plan.step_seconds
  assert plan.ideal_seconds < plan.compute_seconds < low <= high
  assert 0 < plan.mfu[0] <= plan.mfu[1] < 1
  text = plan_text(plan)
  assert "it fits" in text and "x ideal" in text


@pytest.mark.slow
@pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None, reason="needs libtpu"
)
def test_a_quick_plan_has_the_memory_and_collectives_of_a_whole_one():
  path = str(CONFIGS / "ddit_sd3.py:stage1_dry")
  config = load_config(Config, path, {"mesh.fsdp": "4"})
  topology = open_topology("v5p:2x2x1")
  quick = make_plan(config, topology, is_quick=True)
  whole = make_plan(config, topology)
  assert quick.is_quick and not whole.is_quick
  assert quick.collective_bytes == whole.collective_bytes
  assert quick.hbm_bytes == {**whole.hbm_bytes, "program": 0}
  assert quick.compute_seconds < whole.compute_seconds
  assert "times are estimates" in plan_text(quick)
