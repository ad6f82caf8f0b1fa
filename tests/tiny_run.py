"""Runs of a few steps with the tiny model: settings, commands, comparisons."""

import fcntl
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from ddit_jax.config.load import load_config
from ddit_jax.experiment.config import Config
from ddit_jax.sharding.mesh import MeshConfig
from tests import devices, shared_programs

shared_programs.share()

ROOT = pathlib.Path(__file__).parent.parent
CONFIG = str(ROOT / "configs" / "digits.py")
NUM_STEPS = 6
LAST_STEP = str(NUM_STEPS)

OVERRIDES = {
  "model.execution.scan_unroll": "1",
  # So that something is split at this size.
  "mesh.min_split_bytes": "0",
  "data.pool_size": "64",
  "data.validation_size": "8",
  "data.text_to_image.batch_size": "8",
  "data.image_to_text.batch_size": "8",
  "optimizer.warmup_steps": "2",
  "train.num_steps": LAST_STEP,
  "train.log_every": "1",
  "train.validate_every": "4",
  "train.sample_grid_size": "0",
  "train.checkpoint_every": "2",
  "train.keep_last": "9",
  "sample.image.num_inference_steps": "2",
  "sample.text.num_steps": "3",
  "sample.batch_size": "64",
  "evaluate.images_per_prompt": "1",
  "evaluate.num_captions": "8",
  "evaluate.questions_per_kind": "4",
  "evaluate.num_pope_images": "4",
}


def settings(**overrides: str) -> Config:
  """The tiny run's settings; "__" in a name stands for a dot."""
  dotted = {name.replace("__", "."): x for name, x in overrides.items()}
  return load_config(Config, CONFIG, OVERRIDES | dotted)


def adapter_settings(init_from: str, **overrides: str) -> Config:
  """Those of a run of adapters."""
  lora = {"rank": "2", "alpha": "4.0", "targets": "attention,mlp"}
  own = {f"lora__{name}": x for name, x in lora.items()}
  return settings(init_from=init_from, **own | overrides)


def use_first_device(monkeypatch) -> None:
  """Training sees the first device only."""
  make = MeshConfig.make

  def first_only(config, devices=None):
    return make(config, devices or jax.devices()[:1])

  monkeypatch.setattr(MeshConfig, "make", first_only)


def flags(**overrides: str) -> list[str]:
  """--config and its overrides as a command line has them."""
  dotted = {name.replace("__", "."): x for name, x in overrides.items()}
  pairs = (OVERRIDES | dotted).items()
  return [f"--config={CONFIG}", *(f"--config.{k}={v}" for k, v in pairs)]


def ddit(*argv: str, num_devices: int = 1) -> subprocess.Popen:
  """`ddit argv` as a process of its own, with its output in pipes."""
  return subprocess.Popen(
    [sys.executable, "-m", "ddit_jax", *argv],
    cwd=ROOT,
    env=os.environ
    | {"XLA_FLAGS": devices.xla_flags(num_devices), "JAX_PLATFORMS": "cpu"},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def made_once(
  tmp_path_factory: pytest.TempPathFactory,
  name: str,
  make: Callable[[pathlib.Path], Any],
) -> pathlib.Path:
  """A folder that `make(folder)` fills once for all of xdist's workers."""
  root = tmp_path_factory.getbasetemp()
  if "PYTEST_XDIST_WORKER" in os.environ:
    root = root.parent
  folder, done = root / name, root / f"{name}.done"
  with open(root / f"{name}.lock", "w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    if not done.exists():
      make(folder)
      done.touch()
  return folder


def ddit_together(*argv, count: int) -> None:
  """`ddit argv` in so many processes, with eight devices in all."""
  command = [sys.executable, "-m", "ddit_jax", *map(str, argv)]
  result = subprocess.run(
    ["bash", "launch/local.sh", str(count), *command],
    cwd=ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    timeout=600,
    env=os.environ | {"XLA_FLAGS": devices.xla_flags(8 // count)},
  )
  assert result.returncode == 0, result.stdout


def stored_arrays(workdir, step: int) -> dict[str, np.ndarray]:
  """Every array of a checkpoint by name, read by Orbax alone."""
  handler = ocp.PyTreeCheckpointHandler()
  arrays = {}
  for path in sorted(pathlib.Path(workdir, "checkpoints", str(step)).iterdir()):
    if not (path / "_METADATA").is_file():
      continue
    to_numpy = jax.tree.map(
      lambda _: ocp.RestoreArgs(restore_type=np.ndarray),
      handler.metadata(path).tree,
    )
    tree = handler.restore(
      path, args=ocp.args.PyTreeRestore(restore_args=to_numpy)
    )
    for key, leaf in jax.tree_util.tree_leaves_with_path(tree):
      arrays[path.name + jax.tree_util.keystr(key)] = np.asarray(leaf)
  return arrays


def logged_losses(workdir) -> list[tuple[int, str, float]]:
  """(step, name, value) of every loss in scalars.jsonl, in their order."""
  lines = pathlib.Path(workdir, "scalars.jsonl").read_text().splitlines()
  return [
    (row["step"], name, value)
    for row in map(json.loads, lines)
    for name, value in sorted(row.items())
    if name.startswith(("loss/", "validation/", "grad_norm"))
  ]


def data_position(workdir, step: int) -> dict:
  """Where the data streams stood at a checkpoint."""
  plain = pathlib.Path(workdir, "checkpoints", str(step), "plain")
  return json.loads((plain / "data_position.json").read_text())


def assert_bit_identical(workdir, reference, step: int) -> None:
  """All arrays of a step, the data position and all losses are the same."""
  ours, theirs = stored_arrays(workdir, step), stored_arrays(reference, step)
  assert ours.keys() == theirs.keys()
  different = [
    name
    for name, array in theirs.items()
    if array.dtype != ours[name].dtype
    or array.tobytes() != ours[name].tobytes()
  ]
  assert different == []
  assert data_position(workdir, step) == data_position(reference, step)
  assert logged_losses(workdir) == logged_losses(reference)
