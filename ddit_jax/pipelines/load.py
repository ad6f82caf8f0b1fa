"""Checkpoints to pipelines; weights are restored directly onto the mesh."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Iterator

import jax
from jax.sharding import Mesh

from ddit_jax.checkpoint.store import CheckpointStore, checkpoints_in
from ddit_jax.checkpoint.tree_match import check_finite
from ddit_jax.config.load import from_dict
from ddit_jax.conversion.record import read_record
from ddit_jax.data.config import DataConfig, TaskConfig
from ddit_jax.data.text import instructions_from
from ddit_jax.data.tokenizers import Tokenizer, check_text_head, from_files
from ddit_jax.errors import InputError, preparing
from ddit_jax.experiment.captioner import CaptionerModel
from ddit_jax.experiment.captioner_weights import CaptionerWeights
from ddit_jax.experiment.config import Config, SampleConfig
from ddit_jax.experiment.model import DualModel
from ddit_jax.experiment.pretrained import PretrainedModel, PretrainedParams
from ddit_jax.files import local_path
from ddit_jax.models.layers import DTYPES
from ddit_jax.models.mmdit import Execution
from ddit_jax.models.module import Network, Variables
from ddit_jax.pipelines.captioner import CaptionerPipeline
from ddit_jax.pipelines.load_sd3 import BATCH_SIZE, load_sd3
from ddit_jax.pipelines.pipeline import Pipeline
from ddit_jax.pipelines.sd3 import Sd3Pipeline
from ddit_jax.sharding.mesh import MeshConfig

WEIGHTS = ("ema", "params")
# The required parts of a D-DiT.
_NEEDED_PARTS = ("network", "text_encoder", "vae", "tokenizer")
# Length of T5's input in the paper's second stage.
_PRETRAINED_TEXT_LENGTH = 256
_TEXTS = TaskConfig(batch_size=1, text_length=_PRETRAINED_TEXT_LENGTH)
# The D-DiT release's resolution; SD3's own base is 1024.
_PRETRAINED_IMAGE_SIZE = 512


def load(
  path: str,
  *,
  weights: str = "ema",
  step: int | None = None,
  mesh: Mesh | None = None,
  dtype: str | None = None,
  has_int8_text_encoder: bool | None = None,
) -> Pipeline | Sd3Pipeline | CaptionerPipeline:
  """Loads the pipeline of a run's checkpoint or of converted weights.

  Weights converted with --target=sd3 give an `Sd3Pipeline`, which only
  generates images, and a run with `captioner.features` a `CaptionerPipeline`,
  which only describes them.

  Args:
    path: a workdir, its checkpoints folder, or the output of
      `tools/convert_sd3_weights.py`.
    weights: "ema" or "params"; converted weights have only one kind.
    step: which checkpoint of a run; the newest if None.
    mesh: devices; all of them along `fsdp` if None.
    dtype: dtype of the weights and their computation, "float32" or
      "bfloat16" (half the memory). None is float32 for converted weights; a
      run's network computes as in training, and keeps float32 weights.
    has_int8_text_encoder: True keeps T5's kernels as int8, half of bfloat16's
      memory, see `encoders.int8`. None is False for converted weights; a run's
      text encoder is as in training.

  Raises:
    InputError: no such checkpoint, or it is damaged or incomplete.
  """
  if dtype not in (None, *DTYPES):
    raise InputError(f"dtype must be one of {DTYPES}, got {dtype!r}")
  check_weights(weights)
  mesh = mesh or MeshConfig().make()
  if PretrainedModel.is_at(path):
    with preparing():
      return _from_converted(
        *(local_path(path), mesh, dtype or "float32"),
        is_int8=bool(has_int8_text_encoder),
      )
  with open_store(path) as store:
    run = StoredRun.open(store, step, has_int8_text_encoder)
    return _from_store(run, weights, mesh, dtype)


def check_weights(weights: str) -> None:
  """Raises InputError unless a run has weights of this name."""
  if weights not in WEIGHTS:
    raise InputError(f"weights must be one of {WEIGHTS}, got {weights!r}")


@contextlib.contextmanager
def open_store(path: str) -> Iterator[CheckpointStore]:
  """The checkpoints of a run, to read; InputError if there are none."""
  folder = checkpoints_in(path)
  if not folder.is_dir():
    raise InputError(
      f"{path} has no checkpoints: give the workdir of a run; a job of several "
      "stages has one for each"
    )
  with preparing(), CheckpointStore(folder, read_only=True) as store:
    yield store


def stored_config(path: str, step: int | None) -> Config | None:
  """The config of a run's checkpoint; None if `path` holds converted weights.

  Raises:
    InputError: no such checkpoint, or it is damaged.
  """
  if PretrainedModel.is_at(path):
    return None
  with open_store(path) as store:
    return _read_config(store, _stored_step(store, step))


def _from_store(
  run: "StoredRun", weights: str, mesh: Mesh, dtype: str | None
) -> Pipeline | CaptionerPipeline:
  if isinstance(run.model, CaptionerModel):
    return _captioner(run, weights, mesh, dtype)
  model, network = run.merged(weights, mesh)
  if dtype is not None:
    model, network = _cast(model, network, mesh, dtype)
  frozen = run.config.model.restore_encoders(model, run.encoders, mesh)
  return Pipeline.of_run(
    run.config,
    run.tokenizer,
    model,
    {**frozen, "network": network},
    mesh=mesh,
    step=run.step,
    instructions=run.instructions,
  )


def _captioner(
  run: "StoredRun", weights: str, mesh: Mesh, dtype: str | None
) -> CaptionerPipeline:
  if dtype not in (None, run.config.model.execution.dtype):
    raise InputError(
      f"dtype={dtype} is not that of this captioner's training, "
      f"{run.config.model.execution.dtype}: leave it out"
    )
  config = run.config
  below = CaptionerWeights.of_run(
    *(config.captioner, config.init_weights, run.model),
    run.store.files(run.step),
  )
  encoders = config.model.restore_encoders(run.model, run.encoders, mesh)
  variables = {
    **below.frozen(encoders, mesh),
    "network": run.trained(weights, mesh),
  }
  return CaptionerPipeline(
    config, run.tokenizer, run.model, variables, mesh=mesh, step=run.step
  )


def _cast(
  model: DualModel, variables: Variables, mesh: Mesh, dtype: str
) -> tuple[DualModel, Variables]:
  """The model with a network of another dtype, and its variables."""
  old = model.network
  network = Network(
    old.config,
    dataclasses.replace(old.execution, dtype=dtype),
    parameter_dtype=dtype,
    has_mask_embedding=old.has_mask_embedding,
  )
  wanted = network.abstract_variables()

  def cast(arrays: Variables) -> Variables:
    return jax.tree.map(lambda x, like: x.astype(like.dtype), arrays, wanted)

  cast = jax.jit(cast, out_shardings=network.shardings(mesh))
  return dataclasses.replace(model, network=network), cast(variables)


def _from_converted(
  folder: pathlib.Path, mesh: Mesh, dtype: str, *, is_int8: bool
) -> Pipeline | Sd3Pipeline:
  weights = PretrainedModel.open(folder)
  record = weights.record
  if record.target == "sd3":
    return load_sd3(weights, mesh, dtype=dtype, has_int8_t5=is_int8)
  weights.check_has(_NEEDED_PARTS)
  tokenizer = weights.tokenizer
  check_text_head(tokenizer, record.configs["network"].vocab_size)
  model = DualModel(
    network=Network(
      record.configs["network"],
      Execution(dtype=dtype),
      parameter_dtype=dtype,
    ),
    text_encoder=weights.encoder(
      "text_encoder", dtype, has_int8_kernels=is_int8
    ),
    autoencoder=weights.encoder("vae", dtype),
    mask_id=tokenizer.mask_id,
  )
  variables = {
    name: weights.restore(name, part, mesh)
    for name, part in model.parts().items()
  }
  config = Config(
    name=folder.name,
    data=DataConfig(text_to_image=_TEXTS, image_to_text=_TEXTS),
    sample=SampleConfig(batch_size=BATCH_SIZE),
  )
  side = min(_PRETRAINED_IMAGE_SIZE, model.largest_image)
  return Pipeline(
    config,
    tokenizer,
    model,
    variables,
    mesh=mesh,
    step=0,
    image_size=side,
    input_size=side,
    instructions=(),
  )


def holds_sd3(path: str | pathlib.Path) -> bool:
  """True if `path` holds converted weights of plain SD3.

  Raises:
    InputError: it holds converted weights that cannot be read.
  """
  if not PretrainedModel.is_at(path):
    return False
  with preparing():
    return read_record(local_path(path)).target == "sd3"


def refuse_sd3(path: str | pathlib.Path, purpose: str) -> None:
  """Raises InputError if `path` holds plain SD3, which has no text head.

  Args:
    path: a checkpoint.
    purpose: the task that needs the text head, for the message.
  """
  if holds_sd3(path):
    raise InputError(
      f"{path} holds plain SD3, which only generates images (--task=t2i): "
      f"{purpose} needs a text head; convert the source with --target=ddit "
      "and train it"
    )


def refuse_captioner(path: str, step: int | None, purpose: str) -> None:
  """Raises InputError if `path` holds a captioner, which only captions.

  Args:
    path: a checkpoint.
    step: which one of a run, the newest if None.
    purpose: what it cannot do, for the message.

  Raises:
    InputError: also if there is no such checkpoint.
  """
  config = stored_config(path, step)
  if config is not None and config.captioner.is_on:
    raise InputError(
      f"{path} holds a captioner, which only describes images, and {purpose} "
      "needs D-DiT: use ddit sample --task=caption, or ddit evaluate without "
      "--tasks"
    )


def _stored_step(store: CheckpointStore, step: int | None) -> int:
  """A finished step of a store, the newest if None; InputError if not there."""
  steps = store.steps()
  if not steps:
    raise InputError("there is no finished checkpoint: train first")
  step = steps[-1] if step is None else step
  if step not in steps:
    raise InputError(
      f"there is no checkpoint of step {step}; there are {steps}"
    )
  return step


def _read_config(store: CheckpointStore, step: int) -> Config:
  """The config that a step was saved with."""
  return from_dict(Config, store.config(step), f"the checkpoint of step {step}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoredRun:
  """A finished step of a store, with everything except arrays loaded.

  Attributes:
    store: the store of the step.
    step: its number.
    config: of the run.
    tokenizer: saved with it.
    instructions: of the questions it was trained on.
    encoders: source of its frozen encoders, if any.
    model: the network and what is frozen around it.
  """

  store: CheckpointStore
  step: int
  config: Config
  tokenizer: Tokenizer
  instructions: tuple[str, ...]
  encoders: PretrainedModel | None
  model: DualModel | CaptionerModel

  @classmethod
  def open(
    cls,
    store: CheckpointStore,
    step: int | None,
    has_int8_text_encoder: bool | None = None,
  ) -> "StoredRun":
    """Reads a step's metadata; the newest step's if None.

    `has_int8_text_encoder` replaces the config's, unless it is None.

    Raises:
      ValueError: the step does not exist or is damaged.
    """
    step = _stored_step(store, step)
    config = _read_config(store, step)
    if has_int8_text_encoder is not None:
      model = dataclasses.replace(
        config.model, has_int8_text_encoder=has_int8_text_encoder
      )
      config = dataclasses.replace(config, model=model)
    files = store.files(step)
    tokenizer = from_files(files)
    encoders = config.model.open_encoders()
    return cls(
      store=store,
      step=step,
      config=config,
      tokenizer=tokenizer,
      instructions=instructions_from(files),
      encoders=encoders,
      model=config.make_model(tokenizer, encoders),
    )

  def trained(self, weights: str, mesh: Mesh) -> Variables:
    """Restores the network's variables from the checkpoint.

    Args:
      weights: "ema" or "params".
      mesh: the devices.
    """
    wanted = self.model.abstract_variables(mesh)["network"]
    names = {"params": weights, "constants": "constants"}
    items = self.store.restore(
      self.step, {names[kind]: tree for kind, tree in wanted.items()}
    )
    check_finite(f"the checkpoint of step {self.step}", items)
    return {kind: items[names[kind]] for kind in wanted}

  def merged(self, weights: str, mesh: Mesh) -> tuple[DualModel, Variables]:
    """The model with the adapters merged, if it has any, and its variables.

    Raises:
      InputError: the adapters' base weights are missing or differ.
    """
    trained = self.trained(weights, mesh)
    if not self.config.lora.rank:
      return self.model, trained
    adapted = self.model.network
    network, shardings = adapted.network, adapted.network.shardings(mesh)
    shapes = network.abstract_variables()["params"]
    pretrained = PretrainedParams.open(
      self.config.start_of(self.store.folder.parent),
      self.config.init_weights,
      shapes,
      is_complete=True,
    )
    pretrained.check_same_base(self.store.files(self.step))
    base = pretrained.load(shapes, shardings["params"])
    merge = jax.jit(adapted.merged, out_shardings=shardings)
    merged = merge({**trained, "base": base})
    return dataclasses.replace(self.model, network=network), merged
