"""Checkpoints to pipelines, their weights straight onto the mesh."""

import pathlib

from jax.sharding import Mesh

from ddit_jax.checkpoint.store import CheckpointStore
from ddit_jax.data.tokenizer import check_text_head
from ddit_jax.experiment import build
from ddit_jax.experiment.converted import ConvertedWeights
from ddit_jax.experiment.dual_model import DualModel
from ddit_jax.experiment.pipeline import Pipeline
from ddit_jax.experiment.run_folder import checkpoints_in
from ddit_jax.experiment.sd3_loading import sd3_pipeline
from ddit_jax.experiment.sd3_pipeline import Sd3Pipeline
from ddit_jax.experiment.stored_run import StoredRun
from ddit_jax.input_error import InputError, preparing
from ddit_jax.models.mmdit import Execution
from ddit_jax.models.network import Network
from ddit_jax.settings import (
  DataSettings,
  ExperimentSettings,
  StreamSettings,
)
from ddit_jax.sharding.mesh import make_mesh

WEIGHTS = ("ema", "params")
# What a D-DiT cannot work without.
NEEDED_PARTS = ("network", "text_encoder", "vae", "tokenizer")
# Length of T5's input in the paper's second stage.
PRETRAINED_TEXT_LENGTH = 256
_TEXTS = StreamSettings(batch_size=1, text_length=PRETRAINED_TEXT_LENGTH)
# The D-DiT release's resolution; SD3's own base is 1024.
PRETRAINED_IMAGE_SIZE = 512


def load(
  path: str,
  *,
  weights: str = "ema",
  step: int | None = None,
  mesh: Mesh | None = None,
  dtype: str = "float32",
) -> Pipeline | Sd3Pipeline:
  """The pipeline of a run's checkpoint or of converted weights.

  Weights that were converted with --target=sd3 give an `Sd3Pipeline`, which
  only draws.

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
  if ConvertedWeights.is_at(path):
    with preparing():
      return _from_converted(pathlib.Path(path), mesh, dtype)
  folder = checkpoints_in(path)
  if not folder.is_dir():
    raise InputError(f"{path} has no checkpoints: give a folder of a run")
  with preparing(), CheckpointStore(folder, read_only=True) as store:
    return _from_store(store, weights, step, mesh)


def _from_store(store, weights: str, step: int | None, mesh: Mesh) -> Pipeline:
  run = StoredRun.open(store, step)
  model, network = run.merged(weights, mesh)
  frozen = build.frozen_variables(run.settings, model, run.encoders, mesh)
  return Pipeline(
    run.settings,
    run.tokenizer,
    model,
    {**frozen, "network": network},
    mesh=mesh,
    step=run.step,
    image_size=build.image_sides(run.settings)[0],
  )


def _from_converted(
  folder: pathlib.Path, mesh: Mesh, dtype: str
) -> Pipeline | Sd3Pipeline:
  weights = ConvertedWeights.open(folder)
  record = weights.record
  if record.target == "sd3":
    return sd3_pipeline(weights, mesh, dtype=dtype)
  weights.check_has(NEEDED_PARTS)
  tokenizer = weights.tokenizer
  check_text_head(tokenizer, record.configs["network"].vocab_size)
  model = DualModel(
    network=Network(
      record.configs["network"],
      Execution(dtype=dtype),
      parameter_dtype=dtype,
    ),
    text_encoder=weights.encoder("text_encoder", dtype),
    autoencoder=weights.encoder("vae", dtype),
  )
  variables = {
    name: weights.restore(name, part, mesh)
    for name, part in model.parts().items()
  }
  largest = record.configs["network"].max_grid * model.pixels_per_patch
  settings = ExperimentSettings(
    name=folder.name,
    data=DataSettings(text_to_image=_TEXTS, image_to_text=_TEXTS),
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
