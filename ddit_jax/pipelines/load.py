"""Checkpoints to pipelines, their weights straight onto the mesh."""

import dataclasses
import json
import logging
import pathlib

from jax.sharding import Mesh

from ddit_jax.checkpoint.store import CheckpointStore, checkpoints_in
from ddit_jax.config.load import from_dict
from ddit_jax.conversion.checkpoint_record import read_record
from ddit_jax.conversion.convert import REPORT_NAME
from ddit_jax.data.config import DataConfig, TaskConfig
from ddit_jax.data.prompt_tokenizers import (
  PromptTokenizer,
  clip_tokenizer,
  t5_prompt_tokenizer,
)
from ddit_jax.data.tokenizers import Tokenizer, check_text_head, from_files
from ddit_jax.encoders.clip import clip_text_encoder
from ddit_jax.errors import InputError, preparing
from ddit_jax.experiment.config import Config, SampleConfig
from ddit_jax.experiment.model import DualModel
from ddit_jax.experiment.pretrained import ConvertedWeights, FrozenBase
from ddit_jax.models.mmdit import Execution
from ddit_jax.models.module import Network, Variables
from ddit_jax.pipelines.pipeline import Pipeline
from ddit_jax.pipelines.sd3 import Sd3Model, Sd3Pipeline, scheduler_sampling
from ddit_jax.sharding.mesh import MeshConfig

_log = logging.getLogger(__name__)

CLIPS = ("clip_l", "clip_g")
# What SD3 cannot draw without; T5 it can.
NEEDED_PARTS = (
  *("network", "vae", *CLIPS),
  *(f"tokenizer_{name}" for name in CLIPS),
)
# T5's input in diffusers.
T5_LENGTH = 256
# The decoder keeps 128 features a pixel: half a gigabyte of 1024 x 1024.
IMAGES_AT_ONCE = 4


def holds_sd3(path: str | pathlib.Path) -> bool:
  """True if `path` holds converted weights of plain SD3.

  Raises:
    InputError: it holds converted weights that cannot be read.
  """
  if not ConvertedWeights.is_at(path):
    return False
  with preparing():
    return read_record(pathlib.Path(path)).target == "sd3"


def refuse_sd3(path: str | pathlib.Path, purpose: str) -> None:
  """Raises InputError if a purpose needs a text head and `path` has plain SD3.

  Args:
    path: a checkpoint.
    purpose: what it shall be used for, for the message.
  """
  if holds_sd3(path):
    raise InputError(
      f"{path} holds plain SD3, which only draws (--task=t2i): {purpose} needs "
      "a text head; convert the source with --target=ddit and train it"
    )


def sd3_pipeline(
  weights: ConvertedWeights, mesh: Mesh, *, dtype: str = "float32"
) -> Sd3Pipeline:
  """The pipeline of plain SD3.

  Args:
    weights: converted with --target=sd3.
    mesh: the devices.
    dtype: in which weights are held and computed, "float32" or "bfloat16".

  Raises:
    ValueError: parts are missing, damaged, or do not belong together.
  """
  _check_parts(weights)
  tokenizers = _tokenizers(weights)
  sampling = scheduler_sampling(weights.folder / "scheduler")
  model = _model(weights, dtype)
  model.check_fits()
  config = model.network.config
  return Sd3Pipeline(
    tokenizers,
    model,
    {
      name: weights.restore(name, part, mesh)
      for name, part in model.parts().items()
    },
    mesh=mesh,
    sample=SampleConfig(image=sampling, batch_size=IMAGES_AT_ONCE),
    image_size=min(config.base_grid, config.max_grid) * model.pixels_per_patch,
  )


def _model(weights: ConvertedWeights, dtype: str) -> Sd3Model:
  configs = weights.record.configs
  has_t5 = "text_encoder" in configs
  if not has_t5:
    _log.warning("%s has no T5: SD3 reads CLIP alone", weights.folder)
  return Sd3Model(
    network=Network(
      configs["network"], Execution(dtype=dtype), parameter_dtype=dtype
    ),
    text_encoder=weights.encoder("text_encoder", dtype) if has_t5 else None,
    autoencoder=weights.encoder("vae", dtype),
    t5_length=T5_LENGTH,
    **{
      name: clip_text_encoder(configs[name], dtype=dtype, parameter_dtype=dtype)
      for name in CLIPS
    },
  )


def _tokenizers(weights: ConvertedWeights) -> dict[str, PromptTokenizer]:
  """A tokenizer for each text encoder, whose table holds all of its ids."""
  folder, configs = weights.folder, weights.record.configs
  tokenizers = {
    name: clip_tokenizer(
      folder / f"tokenizer_{name}", length=configs[name].max_length
    )
    for name in CLIPS
  }
  if "text_encoder" in configs:
    tokenizers["text_encoder"] = t5_prompt_tokenizer(
      folder / "tokenizer", T5_LENGTH
    )
  for name, tokenizer in tokenizers.items():
    num_rows = configs[name].vocab_size
    if tokenizer.vocab_size > num_rows:
      raise InputError(
        f"{folder}: the {name} has {num_rows} token embeddings but its "
        f"tokenizer {tokenizer.vocab_size} ids: these belong to different "
        "checkpoints"
      )
  return tokenizers


def _check_parts(weights: ConvertedWeights) -> None:
  """Raises InputError that says which parts are missing, and why."""
  folder = weights.folder
  needed = list(NEEDED_PARTS)
  if "text_encoder" in weights.record.configs:
    needed.append("tokenizer")
  missing = [part for part in needed if not (folder / part).is_dir()]
  if not missing:
    return
  reasons = "; ".join(_reason(folder, part) for part in missing)
  raise InputError(
    f"{folder} cannot draw as SD3: {reasons}. Convert a source that has "
    f"{', '.join(missing)}"
  )


def _reason(folder: pathlib.Path, part: str) -> str:
  """What the converter noted about a part that is not there."""
  path = folder / REPORT_NAME
  notes = json.loads(path.read_bytes())["notes"] if path.is_file() else []
  found = (note for note in notes if note.startswith(f"{part} "))
  return next(found, f"{part} is not there")


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoredRun:
  """A finished step of a store, with everything but arrays read.

  Attributes:
    store: where it lies.
    step: which one.
    settings: of the run.
    tokenizer: saved with it.
    encoders: what its frozen encoders come from, if it has any.
    model: the network between them.
  """

  store: CheckpointStore
  step: int
  settings: Config
  tokenizer: Tokenizer
  encoders: ConvertedWeights | None
  model: DualModel

  @classmethod
  def open(cls, store: CheckpointStore, step: int | None) -> "StoredRun":
    """Reads a step's plain files; the newest step's if None.

    Raises:
      ValueError: there is no such step, or it is damaged.
    """
    steps = store.steps()
    if not steps:
      raise InputError("there is no finished checkpoint: train first")
    step = steps[-1] if step is None else step
    if step not in steps:
      raise InputError(
        f"there is no checkpoint of step {step}; there are {steps}"
      )
    settings = from_dict(
      Config, store.config(step), f"the checkpoint of step {step}"
    )
    tokenizer = from_files(store.files(step))
    encoders = settings.model.open_encoders()
    return cls(
      store=store,
      step=step,
      settings=settings,
      tokenizer=tokenizer,
      encoders=encoders,
      model=settings.make_model(tokenizer, encoders),
    )

  def trained(self, weights: str, mesh: Mesh) -> Variables:
    """The variables of the network that a checkpoint holds.

    Args:
      weights: "ema" or "params".
      mesh: the devices.
    """
    wanted = self.model.abstract_variables(mesh)["network"]
    items = self.store.restore(
      self.step, {weights: wanted["params"], "constants": wanted["constants"]}
    )
    return {"params": items[weights], "constants": items["constants"]}

  def merged(self, weights: str, mesh: Mesh) -> tuple[DualModel, Variables]:
    """The model with the adapters merged, if it has any, and `trained` so.

    Raises:
      InputError: their frozen base is gone, or is another one.
    """
    trained = self.trained(weights, mesh)
    if not self.settings.lora.rank:
      return self.model, trained
    config = self.settings
    base = FrozenBase.open(
      config.init_from, config.init_weights, self.model.network
    )
    base.check_same(self.store.files(self.step))
    plain = dataclasses.replace(self.model, network=base.network.network)
    return plain, base.merged(trained, mesh)


WEIGHTS = ("ema", "params")
# What a D-DiT cannot work without.
NEEDED_PARTS_of_loading = ("network", "text_encoder", "vae", "tokenizer")
# Length of T5's input in the paper's second stage.
PRETRAINED_TEXT_LENGTH = 256
_TEXTS = TaskConfig(batch_size=1, text_length=PRETRAINED_TEXT_LENGTH)
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
  mesh = mesh or MeshConfig().make()
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
  frozen = run.settings.model.restore_encoders(model, run.encoders, mesh)
  return Pipeline(
    run.settings,
    run.tokenizer,
    model,
    {**frozen, "network": network},
    mesh=mesh,
    step=run.step,
    image_size=run.settings.data.image_sides[0],
  )


def _from_converted(
  folder: pathlib.Path, mesh: Mesh, dtype: str
) -> Pipeline | Sd3Pipeline:
  weights = ConvertedWeights.open(folder)
  record = weights.record
  if record.target == "sd3":
    return sd3_pipeline(weights, mesh, dtype=dtype)
  weights.check_has(NEEDED_PARTS_of_loading)
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
    mask_id=tokenizer.mask_id,
  )
  variables = {
    name: weights.restore(name, part, mesh)
    for name, part in model.parts().items()
  }
  largest = record.configs["network"].max_grid * model.pixels_per_patch
  settings = Config(
    name=folder.name,
    data=DataConfig(text_to_image=_TEXTS, image_to_text=_TEXTS),
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
