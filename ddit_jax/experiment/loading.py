"""Checkpoints to pipelines, their weights straight onto the mesh."""

import pathlib

import jax
import orbax.checkpoint as ocp
from jax.sharding import Mesh

from ddit_jax.checkpoint.manifest import verify_manifest
from ddit_jax.checkpoint.store import CheckpointStore
from ddit_jax.config_files import to_settings
from ddit_jax.conversion.checkpoint_record import read_record
from ddit_jax.data.pretrained_tokenizers import pretrained_tokenizer
from ddit_jax.data.tokenizer import check_text_head, from_files
from ddit_jax.encoders.t5 import t5_encoder
from ddit_jax.encoders.vae import autoencoder
from ddit_jax.experiment import build
from ddit_jax.experiment.dual_model import DualModel
from ddit_jax.experiment.pipeline import Pipeline
from ddit_jax.experiment.run_folder import checkpoints_in
from ddit_jax.input_error import InputError, preparing
from ddit_jax.models.mmdit import Execution
from ddit_jax.models.network import Network
from ddit_jax.settings import DataSettings, ExperimentSettings
from ddit_jax.sharding.mesh import make_mesh

WEIGHTS = ("ema", "params")
# What a D-DiT cannot work without.
NEEDED_PARTS = ("network", "text_encoder", "vae", "tokenizer")
# Length of T5's input in the paper's second stage.
PRETRAINED_TEXT_LENGTH = 256
# The D-DiT release's resolution; SD3's own base is 1024.
PRETRAINED_IMAGE_SIZE = 512


def load(
  path: str,
  *,
  weights: str = "ema",
  step: int | None = None,
  mesh: Mesh | None = None,
  dtype: str = "float32",
) -> Pipeline:
  """The pipeline of a run's checkpoint or of converted weights.

  Args:
    path: a workdir, its checkpoints folder, or what
      `tools/convert_sd3_weights.py` wrote.
    weights: "ema" or "params"; converted weights have only one kind.
    step: which checkpoint of a run; the newest if None.
    mesh: devices; all of them along `fsdp` if None.
    dtype: in which converted weights are held and computed, "float32" or
      "bfloat16"; a run's checkpoint keeps its own.

  Raises:
    InputError: no such checkpoint, or it is damaged or incomplete.
  """
  if weights not in WEIGHTS:
    raise InputError(f"weights must be one of {WEIGHTS}, got {weights!r}")
  mesh = mesh or make_mesh()
  if (pathlib.Path(path) / "network").is_dir():
    with preparing():
      return _from_converted(pathlib.Path(path), mesh, dtype)
  folder = checkpoints_in(path)
  if not folder.is_dir():
    raise InputError(f"{path} has no checkpoints: give a folder of a run")
  with preparing(), CheckpointStore(folder, read_only=True) as store:
    return _from_store(store, weights, step, mesh)


def _from_store(store, weights: str, step: int | None, mesh: Mesh) -> Pipeline:
  steps = store.steps()
  if not steps:
    raise InputError("there is no finished checkpoint: train first")
  step = steps[-1] if step is None else step
  if step not in steps:
    raise InputError(
      f"there is no checkpoint of step {step}; there are {steps}"
    )
  settings = to_settings(store.config(step), f"the checkpoint of step {step}")
  tokenizer = from_files(store.files(step))
  model = DualModel(network=build.build_network(settings, tokenizer))
  wanted = model.abstract_variables(mesh)["network"]
  items = store.restore(
    step, {weights: wanted["params"], "constants": wanted["constants"]}
  )
  network = {"params": items[weights], "constants": items["constants"]}
  return Pipeline(
    settings,
    tokenizer,
    model,
    {"network": network},
    mesh=mesh,
    step=step,
    image_size=build.build_world(settings).canvas,
  )


def _from_converted(folder: pathlib.Path, mesh: Mesh, dtype: str) -> Pipeline:
  verify_manifest(folder)
  record = read_record(folder)
  if record.target != "ddit":
    raise InputError(
      f"{folder} holds plain SD3, which has no text head and needs CLIP's "
      "pooled text: convert with --target=ddit to sample it as D-DiT"
    )
  missing = [part for part in NEEDED_PARTS if not (folder / part).is_dir()]
  if missing:
    raise InputError(
      f"{folder} lacks {', '.join(missing)}: convert a source that has it"
    )
  tokenizer = pretrained_tokenizer("t5", folder / "tokenizer")
  check_text_head(tokenizer, record.configs["network"].vocab_size)
  model = DualModel(
    network=Network(
      record.configs["network"],
      Execution(dtype=dtype),
      parameter_dtype=dtype,
    ),
    text_encoder=t5_encoder(
      record.configs["text_encoder"], dtype=dtype, parameter_dtype=dtype
    ),
    autoencoder=autoencoder(
      record.configs["vae"], dtype=dtype, parameter_dtype=dtype
    ),
  )
  wanted = model.abstract_variables(mesh)
  variables = {
    name: {
      kind: _restore(folder / name / kind, tree)
      for kind, tree in collections.items()
    }
    for name, collections in wanted.items()
  }
  unit = model.pixels_per_patch
  largest = record.configs["network"].max_grid * unit
  settings = ExperimentSettings(
    name=folder.name,
    data=DataSettings(text_length=PRETRAINED_TEXT_LENGTH),
  )
  return Pipeline(
    settings,
    tokenizer,
    model,
    variables,
    mesh=mesh,
    step=0,
    image_size=min(PRETRAINED_IMAGE_SIZE, largest),
  )


def _restore(folder: pathlib.Path, wanted):
  """An Orbax tree onto its shardings, cast to the dtypes asked for."""
  args = ocp.args.PyTreeRestore(
    wanted, restore_args=ocp.checkpoint_utils.construct_restore_args(wanted)
  )
  with ocp.PyTreeCheckpointer() as checkpointer:
    restored = checkpointer.restore(folder.absolute(), args=args)
  left = [x for x in jax.tree.leaves(restored) if not isinstance(x, jax.Array)]
  if left:
    raise InputError(f"{folder} lacks {len(left)} arrays: convert again")
  return restored
