"""`ddit lora`: exports a run's adapters as one file, or merged."""

import dataclasses
import logging
import pathlib

import jax
import numpy as np

from ddit_jax.checkpoint.store import CheckpointStore, checkpoints_in
from ddit_jax.config.load import as_json
from ddit_jax.conversion.peft import folded, read_adapter, write_adapter
from ddit_jax.data.text import instructions_file
from ddit_jax.errors import InputError
from ddit_jax.files import appearing_folder, folder_if_used, local_path
from ddit_jax.lora.lora import LoraConfig
from ddit_jax.pipelines.load import StoredRun, open_store
from ddit_jax.sharding.mesh import MeshConfig

_SUFFIX = ".safetensors"

_log = logging.getLogger(__name__)


def export_adapter(
  checkpoint: str, out: str, *, weights: str, step: int | None
) -> int:
  """Writes the adapters for PEFT and diffusers, verifies them; returns 0.

  Raises:
    InputError: there are no adapters, or `out` is not a new .safetensors file.
  """
  path = _free_path(out)
  if path.suffix != _SUFFIX:
    raise InputError(
      f"--out={out} must end in {_SUFFIX}: it is one file; --merge writes a "
      "folder"
    )
  with open_store(checkpoint) as store:
    run = _adapted_run(store, step)
    trained = run.trained(weights, MeshConfig().make())["params"]
  adapters = jax.tree.map(np.asarray, trained)
  network = run.model.network
  with folder_if_used(path.parent):
    tensors = write_adapter(
      path, adapters, config=network.config, lora=network.lora
    )
  _check_written(path, adapters, network)
  count = sum(tensor.size for tensor in tensors.values())
  _log.info(
    "%s: step %d's %s, %d tensors, %s parameters, %s bytes",
    path,
    run.step,
    weights,
    len(tensors),
    f"{count:,}",
    f"{path.stat().st_size:,}",
  )
  return 0


def export_merged(
  checkpoint: str, out: str, *, weights: str, step: int | None
) -> int:
  """Writes a checkpoint of the network with the adapters merged; returns 0.

  `out` is a valid argument of `init_from` and `ddit sample`; its weights,
  OUT/checkpoints/STEP/WEIGHTS, are a valid --params of
  `tools/convert_sd3_weights.py --export`.

  Raises:
    InputError: no adapters, another base, or `out` exists.
  """
  path = _free_path(out)
  with open_store(checkpoint) as store:
    run = _adapted_run(store, step)
    _, network = run.merged(weights, MeshConfig().make())
    plain = dataclasses.replace(run.config, lora=LoraConfig())
    with (
      appearing_folder(path) as folder,
      CheckpointStore(checkpoints_in(folder)) as merged,
    ):
      merged.save(
        run.step,
        {weights: network["params"], "constants": network["constants"]},
        data_position=store.data_position(run.step),
        config=as_json(plain),
        files=run.tokenizer.files() | instructions_file(run.instructions),
      )
  _log.info("%s: step %d's %s, merged", path, run.step, weights)
  return 0


def _free_path(out: str) -> pathlib.Path:
  path = local_path(out)
  if path.exists():
    raise InputError(f"--out={out} exists: name a new one")
  return path


def _adapted_run(store: CheckpointStore, step: int | None) -> StoredRun:
  run = StoredRun.open(store, step)
  if not run.config.lora.rank:
    raise InputError(
      "this run has no adapters (its lora.rank is 0): its whole network was "
      "trained, see tools/convert_sd3_weights.py --export"
    )
  return run


def _check_written(path: pathlib.Path, adapters, network) -> None:
  """Compares the file with its source arrays, bit for bit."""
  lora, back = read_adapter(path, network.config)
  same = jax.tree.map(np.array_equal, back, folded(adapters, network.lora))
  if not (jax.tree.all(same) and lora.scale == 1):
    raise OSError(f"{path} does not read back as it was written: disk trouble?")
