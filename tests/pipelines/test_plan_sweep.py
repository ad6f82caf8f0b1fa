"""Which settings a sweep tries, and which of them it calls best."""

import json
import pathlib

import pytest

from ddit_jax.cli.main import main
from ddit_jax.config.load import load_config
from ddit_jax.errors import InputError
from ddit_jax.experiment.config import Config
from ddit_jax.monitor.device_stats import GIB
from ddit_jax.pipelines import plan_sweep
from ddit_jax.pipelines.plan import StepPlan
from ddit_jax.pipelines.plan_sweep import (
  Candidate,
  candidate_line,
  mark_best,
  neighbours,
  sweep,
)
from ddit_jax.planning.topology import open_topology

TOY = str(
  pathlib.Path(__file__).parents[2] / "configs" / "ddit_sd3.py:stage1_dry"
)


def plan(peak=1, seconds=None, fits=True, collectives=0):
  return StepPlan(
    config="toy",
    step="train",
    topology="v5e:2x2",
    num_slices=1,
    device_kind="TPU v5 lite",
    num_devices=4,
    num_chips=4,
    mesh={"fsdp": 4},
    batch={"text_to_image": 8},
    num_parameters=10,
    versions={},
    hbm_limit_bytes=16 * GIB,
    model_flops={"network": 1},
    ideal_seconds=0.5,
    fits=fits,
    hbm_peak_bytes=peak * GIB,
    step_seconds=seconds,
    collective_bytes={"all-gather": collectives},
    exposed_collective_bytes=0,
  )


def candidates(*plans):
  return [Candidate(changes={"a": str(i)}, plan=p) for i, p in enumerate(plans)]


def best(*plans):
  return [one.is_best for one in mark_best(candidates(*plans))]


def test_nothing_beats_the_best_in_both_memory_and_time():
  fast, small = plan(9, (1, 1)), plan(2, (3, 3))
  worse, between = plan(9, (2, 2)), plan(5, (2, 2))
  too_large = plan(20, (0.1, 0.1), fits=False)
  refused = None
  assert best(fast, small, worse, between, too_large, refused) == [
    True,
    True,
    False,
    True,
    False,
    False,
  ]


def test_equal_ones_are_both_best():
  assert best(plan(2, (1, 3)), plan(2, (2, 2))) == [True, True]


def test_without_times_bytes_of_collectives_decide():
  assert best(plan(2, collectives=5), plan(2, collectives=6)) == [True, False]


def test_one_setting_is_changed_at_a_time():
  config = load_config(Config, TOY, {}).for_chip("TPU v5")
  tried = list(neighbours(config, 64, "TPU v5"))
  meshes = [c for c in tried if "mesh.fsdp" in c]
  sizes = [
    tuple(int(c[f"mesh.{x}"]) for x in ("replica", "fsdp", "tensor"))
    for c in meshes
  ]
  # The config's own, 64 ways of fsdp, is not repeated.
  assert sizes == [(2, 32, 1), (4, 16, 1), (8, 8, 1), (1, 32, 2), (1, 16, 4)]
  others = [c for c in tried if c not in meshes]
  assert all(len(change) == 1 for change in others)
  keys = {key for change in others for key in change}
  assert keys == {
    "train.num_microbatches",
    "train.weight_gathering",
    "model.execution.remat",
    "model.encoder_placement.text_encoder",
    "model.encoder_placement.vae",
  }
  remat = {c.get("model.execution.remat") for c in others}
  assert config.model.execution.remat not in remat
  assert {"none", "full"} <= remat and "chip" not in remat


def test_a_sampler_has_no_settings_of_training():
  config = load_config(Config, TOY, {})
  tried = list(neighbours(config, 64, "TPU v5", "t2i"))
  keys = {key.split(".")[0] for change in tried for key in change}
  assert keys == {"mesh", "model"}
  assert not any("model.execution.remat" in change for change in tried)


def test_meshes_of_split_tokens_have_neighbours_that_fit():
  config = load_config(Config, TOY, {"mesh.context": "2"})
  meshes = [c for c in neighbours(config, 64, "TPU v5") if "mesh.fsdp" in c]
  sizes = [
    load_config(Config, TOY, {"mesh.context": "2", **c}).mesh.sizes(64)
    for c in meshes
  ]
  # Also all 64 devices along fsdp, without splitting tokens.
  assert len(sizes) == 6 and (1, 64, 1, 1) in sizes


def test_what_a_config_refuses_is_told(monkeypatch):
  monkeypatch.setattr(plan_sweep, "make_plan", lambda *_: plan(3, (1, 2)))
  monkeypatch.setattr(plan_sweep, "neighbours", lambda *_: [{"mesh.fsdp": "0"}])
  found = mark_best(list(sweep(TOY, {}, open_topology("cpu:8"))))
  assert [one.is_best for one in found] == [True, False]
  assert "refused, mesh.fsdp must be positive" in candidate_line(found[1])
  assert candidate_line(found[0]).split()[:5] == ["*", "fits", "3", "-", "1"]


def test_a_config_that_cannot_be_planned_is_bad_input():
  with pytest.raises(InputError, match="needs 3 devices"):
    next(sweep(TOY, {"mesh.fsdp": "3"}, open_topology("cpu:8")))


@pytest.mark.slow
def test_a_sweep_from_the_command_line(tmp_path, capsys):
  path = tmp_path / "sweep.json"
  argv = ["plan", f"--config={TOY}", "--topology=cpu:8", "--sweep"]
  assert main([*argv, f"--json={path}"]) == 0
  found = json.loads(path.read_text())
  assert found[0]["changes"] == {}
  assert any(one["is_best"] for one in found)
  assert all(one["plan"] or one["refusal"] for one in found)
  shown = capsys.readouterr().out
  assert shown.count("the config as it is") >= 1
