"""Settings to parts: tokenizer, network, losses, data streams."""

import dataclasses

import jax
import numpy as np
from jax.sharding import Mesh

from ddit_jax.batch import DualBatch, ImageToTextBatch, TextToImageBatch
from ddit_jax.config_files import nearest
from ddit_jax.data import records
from ddit_jax.data.streams import DualStream, Stream
from ddit_jax.data.text_layout import caption_tokens
from ddit_jax.data.tokenizer import Tokenizer, word_tokenizer
from ddit_jax.diffusion.flow_path import FlowPath
from ddit_jax.diffusion.mask_process import MaskProcess
from ddit_jax.digits import grammar, pools
from ddit_jax.digits.worlds import WORLDS, World
from ddit_jax.losses.dual import DualLoss
from ddit_jax.models.mmdit import Execution
from ddit_jax.models.network import Network
from ddit_jax.models.sizes import size
from ddit_jax.settings import ExperimentSettings
from ddit_jax.sharding.mesh import check_batch_divides, make_mesh

# Apart from `seed` itself, so that no two draws share a generator.
_ORDER_SEED, _POOL_SEED, _VALIDATION_SEED = 1, 2, 3


def build_mesh(settings: ExperimentSettings) -> Mesh:
  """The job's mesh, after checking that it divides all batches.

  Raises:
    ValueError: devices or batch sizes do not fit.
  """
  mesh = make_mesh(**dataclasses.asdict(settings.mesh))
  parts = settings.train.num_microbatches
  data = settings.data
  for name in ("text_to_image_batch", "image_to_text_batch"):
    label = f"data.{name}"
    if parts > 1:
      label += f" / train.num_microbatches ({parts})"
    check_batch_divides(mesh, getattr(data, name) // parts, label)
  check_batch_divides(mesh, data.validation_size, "data.validation_size")
  return mesh


def build_world(settings: ExperimentSettings) -> World:
  """The digit world that the data section names.

  Raises:
    ValueError: there is no such world.
  """
  name = settings.data.world
  if name not in WORLDS:
    raise ValueError(f"unknown data.world {name!r}: {nearest(name, WORLDS)}")
  return WORLDS[name]


def build_tokenizer(settings: ExperimentSettings) -> Tokenizer:
  """The tokenizer of a fresh run; a resumed one reads its checkpoint's."""
  del settings  # The digit worlds share one grammar.
  return word_tokenizer(grammar.words())


def build_network(
  settings: ExperimentSettings, tokenizer: Tokenizer
) -> Network:
  """The network, with one row of the text head per tokenizer id."""
  model = settings.model
  config = size(
    model.size,
    vocab_size=tokenizer.vocab_size,
    max_text_length=settings.data.text_length,
  )
  world = build_world(settings)
  if world.canvas > config.max_grid * config.patch_size:
    raise ValueError(
      f"model.size {model.size!r} draws at most "
      f"{config.max_grid * config.patch_size} pixels but data.world "
      f"{settings.data.world!r} has {world.canvas}: choose a larger size"
    )
  execution = Execution(
    dtype=model.dtype,
    remat=model.remat,
    scan_unroll=model.scan_unroll,
    attention_kernel=model.attention_kernel,
  )
  return Network(config, execution)


def build_process(
  settings: ExperimentSettings, tokenizer: Tokenizer
) -> MaskProcess:
  """The text diffusion."""
  return MaskProcess(
    mask_id=tokenizer.mask_id,
    mask_count=settings.loss.mask_count,
    mask_chance=settings.loss.mask_chance,
    min_time=settings.loss.min_text_time,
  )


def build_path(settings: ExperimentSettings) -> FlowPath:
  """The image diffusion."""
  return FlowPath(
    loss_weighting=settings.loss.image_weighting,
    sigma_grid=settings.loss.sigma_grid,
    sigma_location=settings.loss.sigma_location,
    sigma_draw=settings.loss.sigma_draw,
    shift=settings.sample.shift,
  )


def build_loss(settings: ExperimentSettings, tokenizer: Tokenizer) -> DualLoss:
  """The dual loss."""
  loss = settings.loss
  return DualLoss(
    path=build_path(settings),
    process=build_process(settings, tokenizer),
    text_weight=loss.text_weight,
    text_divisor=loss.text_divisor,
    drop_probability=loss.condition_dropout,
    is_merged=loss.is_merged,
  )


def null_tokens(
  settings: ExperimentSettings, tokenizer: Tokenizer
) -> np.ndarray:
  """The empty caption, int32 [length]."""
  return caption_tokens(tokenizer, "", settings.data.text_length)


def build_records(
  settings: ExperimentSettings,
  tokenizer: Tokenizer,
  *,
  split: str,
  size: int,
  seed: int,
) -> tuple[records.ArrayRecords, records.ArrayRecords]:
  """Records of the image loss and of the text loss, `size` each."""
  world, length = build_world(settings), settings.data.text_length
  drawn = pools.text_to_image_pool(world, split, size, seed)
  asked = pools.image_to_text_pool(
    world, split, size, seed + 1, settings.data.task_shares
  )
  return (
    records.text_to_image_records(
      drawn.images, drawn.captions, tokenizer, length
    ),
    records.image_to_text_records(
      asked.images, asked.prompts, asked.texts, tokenizer, length
    ),
  )


def build_stream(
  settings: ExperimentSettings, tokenizer: Tokenizer
) -> DualStream:
  """Both training streams."""
  data, seed = settings.data, settings.seed
  images, texts = build_records(
    settings,
    tokenizer,
    split="train",
    size=data.pool_size,
    seed=_seed(seed, _POOL_SEED),
  )
  order = _seed(seed, _ORDER_SEED)
  return DualStream(
    Stream(images, data.text_to_image_batch, order),
    Stream(texts, data.image_to_text_batch, order + 1),
  )


def build_validation_batch(
  settings: ExperimentSettings, tokenizer: Tokenizer
) -> DualBatch:
  """A fixed batch of both streams from the validation writers."""
  size = settings.data.validation_size
  images, texts = build_records(
    settings,
    tokenizer,
    split="validation",
    size=size,
    seed=_seed(0, _VALIDATION_SEED),
  )
  rows = slice(jax.process_index(), None, jax.process_count())
  return DualBatch(
    TextToImageBatch(**{k: v[rows] for k, v in images.arrays.items()}),
    ImageToTextBatch(**{k: v[rows] for k, v in texts.arrays.items()}),
  )


def _seed(seed: int, purpose: int) -> int:
  """A 31-bit seed of its own for each purpose."""
  words = np.random.SeedSequence([seed, purpose]).generate_state(1)
  return int(words[0] >> 1)
