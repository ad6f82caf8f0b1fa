"""Settings to parts: tokenizer, network, losses, data streams."""

import pathlib
import types
from collections.abc import Mapping

import numpy as np
import optax
from jax.sharding import Mesh

from ddit_jax.config.dry_run import TOY_SOURCE, TOY_WEIGHTS
from ddit_jax.data.example import Source
from ddit_jax.data.sources.registry import open_source
from ddit_jax.data.text import caption_tokens
from ddit_jax.data.tokenizers import (
  Tokenizer,
  pretrained_tokenizer,
  tokenizer_of_sources,
  word_tokenizer,
)
from ddit_jax.digits import grammar
from ddit_jax.digits.world import WORLDS, World
from ddit_jax.errors import suggest
from ddit_jax.experiment.config import OF_ENCODERS, Config
from ddit_jax.experiment.data import SourceData
from ddit_jax.experiment.digit_data import DigitData
from ddit_jax.experiment.model import DualModel
from ddit_jax.experiment.pretrained import (
  ENCODER_PARTS,
  ConvertedWeights,
  ToyWeights,
)
from ddit_jax.experiment.toy_source import open_toy
from ddit_jax.lora.lora import LoraNetwork
from ddit_jax.models.config import MMDiTConfig, size
from ddit_jax.models.module import Network, Variables
from ddit_jax.sharding.mesh import check_batch_divides
from ddit_jax.train.step import TrainStep

# The `data.tokenizer` that is made of the sources' own words.
WORDS = "words"


def build_mesh(settings: Config) -> Mesh:
  """The job's mesh, after checking that it divides all batches.

  Raises:
    ValueError: devices or batch sizes do not fit.
  """
  mesh = settings.mesh.make()
  parts = settings.train.num_microbatches
  data = settings.data
  for name, stream in data.streams_on().items():
    label = f"data.{name}.batch_size"
    if parts > 1:
      label += f" / train.num_microbatches ({parts})"
    check_batch_divides(mesh, stream.batch_size // parts, label)
  check_batch_divides(mesh, data.validation_size, "data.validation_size")
  return mesh


def build_world(settings: Config) -> World:
  """The digit world that the data section names.

  Raises:
    ValueError: there is no such world.
  """
  name = settings.data.world
  if name not in WORLDS:
    raise ValueError(f"unknown data.world {name!r}: {suggest(name, WORLDS)}")
  return WORLDS[name]


def open_encoders(settings: Config) -> ConvertedWeights | None:
  """The converted weights whose frozen encoders the run uses, if it does.

  Raises:
    ValueError: they are damaged or not there.
  """
  if not settings.model.encoders_from:
    return None
  if settings.model.encoders_from == TOY_WEIGHTS:
    return ToyWeights.make()
  return ConvertedWeights.open(settings.model.encoders_from)


def open_sources(settings: Config) -> dict[str, Source]:
  """The sources of `data.sources`; their indexes are built if need be.

  Raises:
    ValueError: one of them cannot be opened.
  """
  return {
    name: _open_source(name, spec)
    for name, spec in settings.data.sources.items()
  }


def _open_source(name: str, spec: Mapping[str, object]) -> Source:
  if spec.get("kind") != TOY_SOURCE:
    return open_source(name, spec)
  keys = {key: value for key, value in spec.items() if key != "kind"}
  return open_toy(name, **keys)


def build_tokenizer(
  settings: Config,
  encoders: ConvertedWeights | None = None,
  sources: Mapping[str, Source] = types.MappingProxyType({}),
) -> Tokenizer:
  """The tokenizer of a fresh run; a resumed one reads its checkpoint's.

  Raises:
    ValueError: its folder or kind cannot be used, or there is none.
  """
  asked = settings.data.tokenizer
  kind, _, folder = asked.partition(":")
  if asked == WORDS and sources:
    return tokenizer_of_sources(sources.values())
  if folder:
    return pretrained_tokenizer(kind, folder)
  if asked or (sources and encoders is None):
    raise ValueError(
      f"data.tokenizer is {asked!r}: write KIND:FOLDER, e.g. "
      f"gpt2:path/to/gpt2, or for small data.sources {WORDS!r}, or set "
      "model.encoders_from"
    )
  if encoders is not None:
    return encoders.tokenizer
  # The digit worlds share one grammar.
  return word_tokenizer(grammar.words())


def build_network(
  settings: Config,
  tokenizer: Tokenizer,
  encoders: ConvertedWeights | None = None,
) -> Network:
  """The network, with one row of the text head per tokenizer id.

  With `settings.lora` it is a `LoraNetwork`, whose parameters are adapters.
  """
  model = settings.model
  network = Network(
    _network_config(settings, tokenizer, encoders),
    model.execution,
    has_mask_embedding=model.has_mask_embedding,
  )
  return LoraNetwork(network, settings.lora) if settings.lora.rank else network


def build_model(
  settings: Config,
  tokenizer: Tokenizer,
  encoders: ConvertedWeights | None = None,
) -> DualModel:
  """The network between its frozen encoders, if it has any.

  Raises:
    ValueError: network, encoders and image size do not suit each other.
  """
  network = build_network(settings, tokenizer, encoders)
  model = DualModel(network=network, mask_id=tokenizer.mask_id)
  if encoders is not None:
    dtype = settings.model.encoder_dtype
    # The End-to-End variant embeds its tokens itself.
    needs_text_encoder = network.config.context_dim is not None
    names = ENCODER_PARTS if needs_text_encoder else ("vae",)
    encoders.check_has(names)
    parts = {name: encoders.encoder(name, dtype) for name in names}
    model = DualModel(
      network=network,
      text_encoder=parts.get("text_encoder"),
      autoencoder=parts["vae"],
      mask_id=tokenizer.mask_id,
    )
  model.check_fits()
  for side in image_sides(settings):
    model.latent_shape(side, side)
  return model


def image_sides(settings: Config) -> tuple[int, int]:
  """Sides of both streams' square images, in pixels."""
  data = settings.data
  if data.sources:
    return data.text_to_image.image_size, data.image_to_text.image_size
  canvas = build_world(settings).canvas
  return canvas, canvas


def frozen_variables(
  settings: Config,
  model: DualModel,
  encoders: ConvertedWeights | None,
  mesh: Mesh,
) -> dict[str, Variables]:
  """The encoders' weights, laid out as `model.encoder_placement` says."""
  if encoders is None:
    return {}
  placement = settings.model.encoder_placement
  return {
    name: encoders.restore(name, part, mesh, placement)
    for name, part in model.parts().items()
    if name in ENCODER_PARTS
  }


def _network_config(settings, tokenizer, encoders) -> MMDiTConfig:
  name = settings.model.size
  if name != OF_ENCODERS:
    return size(
      name,
      vocab_size=tokenizer.vocab_size,
      max_text_length=settings.data.max_text_length,
    )
  if encoders is None or "network" not in encoders.record.configs:
    raise ValueError(
      f"model.size={OF_ENCODERS!r} takes the shapes of the network beside the "
      "encoders: set model.encoders_from to converted weights that have one"
    )
  config = encoders.record.configs["network"]
  if config.vocab_size != tokenizer.vocab_size:
    raise ValueError(
      f"the network in {encoders.folder} has {config.vocab_size} rows of text "
      f"head, its tokenizer {tokenizer.vocab_size} ids: convert with "
      "--target=ddit"
    )
  return config


def check_can_merge(settings: Config) -> None:
  """Raises ValueError if a merged loss would get unequal shapes."""
  if not settings.loss.is_merged or len(settings.data.streams_on()) < 2:
    return
  sides = image_sides(settings)
  lengths = [s.text_length for s in settings.data.streams().values()]
  if len(set(sides)) > 1 or len(set(lengths)) > 1:
    raise ValueError(
      f"loss.is_merged needs streams of equal shapes, but their images have "
      f"{sides[0]} and {sides[1]} pixels and their texts {lengths[0]} and "
      f"{lengths[1]} tokens: make them equal or set loss.is_merged=False"
    )


def build_train_step(
  settings: Config,
  *,
  model: DualModel,
  optimizer: optax.GradientTransformation,
  is_mask_embedding_trained: bool,
) -> TrainStep:
  """The pure step of a run."""
  train = settings.train
  return TrainStep(
    model=model,
    loss=settings.loss,
    optimizer=optimizer,
    ema_decay=settings.optimizer.ema_decay,
    num_microbatches=train.num_microbatches,
    seed=settings.seed,
    has_stream_norms=train.has_stream_norms,
    is_mask_embedding_trained=is_mask_embedding_trained,
  )


def null_tokens(settings: Config, tokenizer: Tokenizer) -> np.ndarray:
  """The empty caption, int32 [length]."""
  return caption_tokens(tokenizer, "", settings.data.text_to_image.text_length)


def build_data(
  settings: Config,
  tokenizer: Tokenizer,
  sources: Mapping[str, Source],
  workdir: pathlib.Path,
) -> DigitData | SourceData:
  """What both streams and the validation batch come from.

  Args:
    settings: of the run.
    tokenizer: of its texts.
    sources: what `open_sources` gave.
    workdir: where unreadable records are listed.

  Raises:
    ValueError: a world or mixture cannot be used.
  """
  if sources:
    return SourceData.open(settings, tokenizer, sources, workdir)
  return DigitData(settings, build_world(settings), tokenizer)
