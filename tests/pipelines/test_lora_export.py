"""`ddit lora`: a run's adapters as a file, and merged."""

import logging

import jax
import numpy as np
import pytest

from ddit_jax.cli.main import main
from ddit_jax.conversion.peft import read_adapter
from ddit_jax.errors import InputError
from ddit_jax.experiment.pretrained import PretrainedParams
from ddit_jax.pipelines.load import load
from ddit_jax.pipelines.lora_export import export_adapter, export_merged
from tests import tiny_run

LAST = tiny_run.NUM_STEPS


@pytest.mark.parametrize("weights", ["ema", "params"])
def test_the_file_holds_the_runs_adapters(adapted, tmp_path, weights, caplog):
  path = tmp_path / "new" / "adapter.safetensors"
  with caplog.at_level(logging.INFO):
    options = {"weights": weights, "step": None}
    assert export_adapter(str(adapted), str(path), **options) == 0
  assert f"{path.stat().st_size:,} bytes" in caplog.text
  config = load(str(adapted)).model.network.config
  lora, adapters = read_adapter(path, config)
  assert (lora.rank, lora.alpha) == (2, 2.0)
  assert lora.targets == "attention,mlp"
  stored = tiny_run.stored_arrays(adapted, LAST)
  for key, leaf in jax.tree_util.tree_leaves_with_path(adapters):
    want = stored[f"{weights}{jax.tree_util.keystr(key)}"]
    if key[-1].key == "up":
      # alpha / rank of the run
      want = want * np.float32(4 / 2)
    np.testing.assert_array_equal(leaf, want)


def test_a_merged_folder_loads_and_starts_runs(adapted, tmp_path):
  out = tmp_path / "merged"
  argv = [f"--checkpoint={adapted}", "--merge", f"--out={out}"]
  assert main(["lora", *argv]) == 0
  want = load(str(adapted)).variables["network"]
  pipeline = load(str(out))
  assert pipeline.config.lora.rank == 0
  got = pipeline.variables["network"]
  jax.tree.map(np.testing.assert_array_equal, got, want)
  weights = PretrainedParams.open(str(out), "ema", got["params"])
  assert weights.newly_initialised == weights.unused == []


@pytest.mark.parametrize(
  ("out", "message"),
  [
    ("adapter.bin", "must end in .safetensors"),
    ("there.safetensors", "exists: name a new one"),
  ],
)
def test_places_that_cannot_be_written_are_refused(
  adapted, tmp_path, out, message
):
  (tmp_path / "there.safetensors").touch()
  with pytest.raises(InputError, match=message):
    export_adapter(str(adapted), str(tmp_path / out), weights="ema", step=None)


@pytest.mark.parametrize("export", [export_adapter, export_merged])
def test_a_run_without_adapters_is_refused(trained, tmp_path, export):
  out = str(tmp_path / "out.safetensors")
  with pytest.raises(InputError, match="this run has no adapters"):
    export(str(trained), out, weights="ema", step=None)
