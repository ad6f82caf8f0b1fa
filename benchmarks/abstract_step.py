"""A whole training step of which nothing but shapes and layouts exists."""

import dataclasses
import pathlib

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ddit_jax.batch import DualBatch, ImageToTextBatch, TextToImageBatch
from ddit_jax.conversion.checkpoint_record import CheckpointRecord
from ddit_jax.data.config import TaskConfig
from ddit_jax.data.tokenizers import Tokenizer
from ddit_jax.encoders.t5 import T5_SIZES
from ddit_jax.encoders.vae import AutoencoderConfig
from ddit_jax.experiment.config import Config
from ddit_jax.experiment.data import make_tokenizer
from ddit_jax.experiment.model import DualModel
from ddit_jax.experiment.pretrained import ENCODER_PARTS, ConvertedWeights
from ddit_jax.models.config import size
from ddit_jax.sharding.rules import partition_spec, with_shardings
from ddit_jax.train.state import TrainState, abstract_state, state_shardings
from ddit_jax.train.step import TrainStep

# T5's end token; any id has the same shape.
_END_ID = 1


class AbstractWeights(ConvertedWeights):
  """Stands for converted SD3 weights: T5-XXL and SD3's autoencoder."""

  def __init__(self):
    configs = {"text_encoder": T5_SIZES["xxl"], "vae": AutoencoderConfig()}
    record = CheckpointRecord(target="ddit", configs=configs)
    super().__init__(pathlib.Path("shapes_of_sd3"), record)

  def check_has(self, parts) -> None:
    """All parts have shapes."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class AbstractStep:
  """The training step of a run, and the shapes of what it is called with.

  It is compiled for a mesh of devices that need not be there.

  Attributes:
    model: the network between its encoders.
    step: pure function of the others.
    state: shapes and layouts, the frozen encoders' too.
    batch: shapes and layouts of the global batch.
    null_tokens: int32 [length], of no meaning.
  """

  model: DualModel
  step: TrainStep
  state: TrainState
  batch: DualBatch
  null_tokens: np.ndarray

  @property
  def is_mask_embedding_trained(self) -> bool:
    """Whether the first steps go back through the text encoder."""
    has_one = self.model.network.has_mask_embedding
    return has_one and self.step.is_mask_embedding_trained

  @classmethod
  def of(cls, settings: Config, mesh: Mesh) -> "AbstractStep":
    """The step that `ddit train` would run with these settings.

    Raises:
      ValueError: settings and mesh do not suit each other, or the network is
        frozen under adapters.
    """
    if settings.lora.rank:
      raise ValueError(
        f"lora.rank is {settings.lora.rank}: only steps that train the whole "
        "network can be planned, set lora.rank=0"
      )
    encoders = AbstractWeights() if settings.model.encoders_from else None
    tokenizer = _tokenizer(settings)
    model = settings.make_model(tokenizer, encoders)
    optimizer = settings.optimizer.make(settings.train.num_steps)
    step = settings.make_step(
      model,
      optimizer,
      is_mask_embedding_trained=settings.train.mask_embedding_steps != 0,
    )
    shardings = state_shardings(model.network, optimizer, mesh)
    state = abstract_state(model.network, optimizer, shardings)
    length = settings.data.text_to_image.text_length
    return cls(
      model=model,
      step=step,
      state=state.replace(frozen=_frozen(settings, model, mesh)),
      batch=_batch(settings, model, mesh),
      null_tokens=np.full(length, _END_ID, np.int32),
    )

  def trace(self, mesh: Mesh) -> jax.stages.Traced:
    """The step traced for the mesh; its state is donated."""
    layout = jax.tree.map(lambda leaf: leaf.sharding, self.state)
    jitted = jax.jit(self.step, donate_argnums=0, out_shardings=(layout, None))
    with jax.set_mesh(mesh):
      return jitted.trace(self.state, self.batch, self.null_tokens)


def _tokenizer(settings: Config) -> Tokenizer:
  """The run's own, or one with as many ids where its files are elsewhere."""
  if not settings.data.sources:
    return make_tokenizer(settings.data)
  rows = size(settings.model.size).vocab_size
  return Tokenizer(
    backend=None, end_id=_END_ID, mask_id=rows - 1, vocab_size=rows
  )


def _frozen(settings: Config, model: DualModel, mesh: Mesh):
  """The encoders' variables, laid out as `build.frozen_variables` does."""
  trees = model.abstract_variables(mesh)
  frozen = {name: trees[name] for name in ENCODER_PARTS if name in trees}
  if settings.model.encoder_placement == "sharded":
    return frozen
  everywhere = NamedSharding(mesh, PartitionSpec())
  return with_shardings(frozen, jax.tree.map(lambda _: everywhere, frozen))


def _batch(settings: Config, model: DualModel, mesh: Mesh) -> DualBatch:
  """What the data pipeline gives; every text of the text loss has an image."""
  data, rows = settings.data, NamedSharding(mesh, partition_spec("batch"))
  sides = settings.data.image_sides
  dtype = settings.model.encoder_dtype

  def array(stream: TaskConfig, shape, dtype):
    shape = (stream.batch_size, *shape)
    return jax.ShapeDtypeStruct(shape, dtype, sharding=rows)

  def pictures(stream: TaskConfig, side: int):
    if not stream.cache:
      return array(stream, (side, side, 3), "u1")
    *grid, channels = model.latent_shape(side, side)
    return array(stream, (*grid, 2 * channels), dtype)

  images = texts = None
  if (stream := data.text_to_image).batch_size:
    width, length = model.network.config.context_dim, stream.text_length
    images = TextToImageBatch(
      images=pictures(stream, sides[0]),
      tokens=array(stream, (length,), "i4"),
      features=array(stream, (length, width), dtype)
      if stream.cache and width
      else None,
    )
  if (stream := data.image_to_text).batch_size:
    texts = ImageToTextBatch(
      images=pictures(stream, sides[1]),
      tokens=array(stream, (stream.text_length,), "i4"),
      loss_mask=array(stream, (stream.text_length,), "?"),
    )
  return DualBatch(images, texts)
