"""A whole training step as shapes and shardings, without any arrays."""

import dataclasses
import functools
import pathlib
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ddit_jax.batch import DualBatch, ImageToTextBatch, TextToImageBatch
from ddit_jax.config.dry_run import TOY_WEIGHTS
from ddit_jax.conversion.record import CheckpointRecord
from ddit_jax.data.config import DataConfig, TaskConfig
from ddit_jax.data.source_records import mixed_sources
from ddit_jax.data.sources.registry import may_have_images
from ddit_jax.data.tokenizers import Tokenizer, word_tokenizer
from ddit_jax.encoders.t5 import T5_SIZES
from ddit_jax.encoders.vae import AutoencoderConfig
from ddit_jax.experiment.captioner import (
  IMAGE_ENCODER,
  NULL_TEXT,
  CaptionerModel,
)
from ddit_jax.experiment.compiled_step import jitted, train_step
from ddit_jax.experiment.config import Config
from ddit_jax.experiment.model import DualModel
from ddit_jax.experiment.pretrained import ENCODER_PARTS, PretrainedModel
from ddit_jax.experiment.step_flops import training_flops
from ddit_jax.experiment.toy_model import ToyModel
from ddit_jax.experiment.vocabulary import make_tokenizer
from ddit_jax.models.config import size
from ddit_jax.models.gpt2 import GPT2_SIZES
from ddit_jax.sharding.placement import with_shardings
from ddit_jax.sharding.rules import partition_spec
from ddit_jax.train.state import TrainState, abstract_state, state_shardings
from ddit_jax.train.step import TrainStep

# T5's end token; any id has the same shape.
_END_ID = 1


class AbstractWeights(PretrainedModel):
  """In place of converted SD3 weights: T5-XXL and SD3's autoencoder."""

  def __init__(self):
    configs = {"text_encoder": T5_SIZES["xxl"], "vae": AutoencoderConfig()}
    record = CheckpointRecord(target="ddit", configs=configs)
    super().__init__(pathlib.Path("shapes_of_sd3"), record)

  @functools.cached_property
  def tokenizer(self) -> Tokenizer:
    """One without words: shapes do not depend on a text."""
    return word_tokenizer(())

  def check_has(self, parts) -> None:
    """All parts have shapes."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class AbstractStep:
  """The training step of a run, and the shapes of its arguments.

  It can be compiled for a mesh of devices that are not attached.

  Attributes:
    model: the trained network and the frozen parts around it.
    step: pure function of the others.
    state: shapes and shardings, including the frozen encoders'.
    batch: shapes and shardings of the global batch.
    null_tokens: int32 [length], arbitrary values.
  """

  model: DualModel | CaptionerModel
  step: TrainStep
  state: TrainState
  batch: DualBatch
  null_tokens: np.ndarray

  @property
  def is_mask_embedding_trained(self) -> bool:
    """Whether the first steps differentiate through the text encoder."""
    if isinstance(self.model, CaptionerModel):
      return False
    has_one = self.model.network.has_mask_embedding
    return has_one and self.step.is_mask_embedding_trained

  @classmethod
  def of(
    cls, config: Config, mesh: Mesh, device_kind: str = ""
  ) -> "AbstractStep":
    """The step that `ddit train` would run with this config.

    Args:
      config: of the run.
      mesh: of devices that need not be attached.
      device_kind: see `Config.make_model`.

    Raises:
      ValueError: mesh and config are incompatible, or it trains adapters or
        on rewards.
    """
    if config.post_training.parts:
      raise ValueError(
        "post_training has a method: only steps on data can be planned, which "
        "draw nothing; clear its method"
      )
    model = abstract_model(config, device_kind)
    optimizer = config.optimizer.make(config.train.num_steps)
    step = train_step(
      config,
      model,
      is_mask_embedding_trained=config.train.trains_mask_embedding(step=1),
    )
    shardings = state_shardings(model.network, optimizer, mesh)
    state = abstract_state(model.network, optimizer, shardings)
    length = config.data.text_to_image.text_length
    return cls(
      model=model,
      step=step,
      state=state.replace(frozen=_frozen(model, mesh)),
      batch=_batch(config, model, mesh),
      null_tokens=np.full(length, _END_ID, np.int32),
    )

  @property
  def arguments(self) -> dict[str, Any]:
    """Shapes and shardings by kind."""
    state = self.state
    return {
      "parameters": state.params,
      "optimizer": state.opt_state,
      "ema": state.ema,
      "frozen_encoders": state.frozen,
      "constants": state.constants,
      "batch": self.batch,
    }

  def model_flops(self) -> dict[str, int]:
    """See `training_flops`."""
    is_row_trained = self.is_mask_embedding_trained
    return training_flops(
      self.model, self.batch, is_mask_embedding_trained=is_row_trained
    )

  def ideal_flops(self) -> int:
    """Of the network, forward and backward, and T5 or what is read, forward."""
    flops = training_flops(self.model, self.batch)
    parts = ("network", "text_encoder", IMAGE_ENCODER)
    return sum(flops.get(part, 0) for part in parts)

  def trace(self, mesh: Mesh) -> jax.stages.Traced:
    """The step traced for the mesh; its state is donated."""
    layout = jax.tree.map(lambda leaf: leaf.sharding, self.state)
    step = jitted(self.step, layout)
    with jax.set_mesh(mesh):
      return step.trace(self.state, self.batch, self.null_tokens)


def abstract_model(
  config: Config, device_kind: str = ""
) -> DualModel | CaptionerModel:
  """The model of a config, whose weights and tokenizer need not be here.

  Args:
    config: of a run.
    device_kind: see `Config.make_model`.

  Raises:
    ValueError: it trains adapters.
  """
  if config.lora.rank:
    raise ValueError(
      f"lora.rank is {config.lora.rank}: only steps that train the whole "
      "network can be planned, set lora.rank=0"
    )
  encoders = _encoders(config)
  tokenizer = _tokenizer(config, encoders)
  return config.make_model(tokenizer, encoders, device_kind=device_kind)


def _encoders(config: Config) -> PretrainedModel | None:
  if not config.model.encoders_from:
    return None
  is_toy = config.model.encoders_from == TOY_WEIGHTS
  return ToyModel.make() if is_toy else AbstractWeights()


def _tokenizer(config: Config, encoders: PretrainedModel | None) -> Tokenizer:
  """The run's tokenizer, or one with as many ids if its files are not here."""
  if isinstance(encoders, ToyModel):
    return encoders.tokenizer
  if not config.data.sources:
    return make_tokenizer(config.data)
  rows = size(config.model.size).vocab_size
  if config.captioner.is_on:
    # All but the mask are GPT-2's.
    rows = GPT2_SIZES[config.captioner.decoder].vocab_size + 1
  return Tokenizer(
    backend=None, end_id=_END_ID, mask_id=rows - 1, vocab_size=rows
  )


def _frozen(model: DualModel | CaptionerModel, mesh: Mesh):
  """The encoders' variables, and what a captioner keeps in their place."""
  trees = model.abstract_variables(mesh)
  found = {name: trees[name] for name in ENCODER_PARTS if name in trees}
  if not isinstance(model, CaptionerModel):
    return found
  kept = jax.eval_shape(lambda one: model.reader.frozen(one, mesh), found)
  found = {name: trees[name] for name in found if name in kept}
  if IMAGE_ENCODER in trees:
    found[IMAGE_ENCODER] = trees[IMAGE_ENCODER]
  if NULL_TEXT in kept:
    whole = NamedSharding(mesh, PartitionSpec())
    found[NULL_TEXT] = with_shardings(kept[NULL_TEXT], whole)
  return found


def _batch(
  config: Config, model: DualModel | CaptionerModel, mesh: Mesh
) -> DualBatch:
  """A batch as from the data pipeline."""
  data, rows = config.data, NamedSharding(mesh, partition_spec("batch"))
  sides = config.data.image_sides
  dtype = config.model.encoder_dtype

  def array(task: TaskConfig, shape, dtype):
    shape = (task.batch_size, *shape)
    return jax.ShapeDtypeStruct(shape, dtype, sharding=rows)

  def images_of(task: TaskConfig, side: int):
    if not task.cache:
      return array(task, (side, side, 3), "u1")
    *grid, channels = model.latent_shape(side, side)
    return array(task, (*grid, 2 * channels), dtype)

  images = texts = None
  if (task := data.text_to_image).batch_size:
    width, length = model.network.config.context_dim, task.text_length
    images = TextToImageBatch(
      images=images_of(task, sides[0]),
      tokens=array(task, (length,), "i4"),
      features=array(task, (length, width), dtype)
      if task.cache and width
      else None,
    )
  if (task := data.image_to_text).batch_size:
    texts = ImageToTextBatch(
      images=images_of(task, sides[1]),
      tokens=array(task, (task.text_length,), "i4"),
      loss_mask=array(task, (task.text_length,), "?"),
      has_image=array(task, (), "?") if data.sources else None,
    )
    if data.sources and not _may_have_images(data):
      texts = texts.replace(images=None, has_image=None)
  return DualBatch(images, texts)


def _may_have_images(data: DataConfig) -> bool:
  """Whether some source of the text loss may have images."""
  mixed = mixed_sources("image_to_text", data.image_to_text, data.sources)
  return any(map(may_have_images, mixed.values()))
