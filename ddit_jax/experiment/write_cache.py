"""`ddit prepare --cache`: encodes a task's sources to disk."""

import logging

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Array, Float, Float32, Int32, UInt8

from ddit_jax.data.image import ImageTransform
from ddit_jax.data.pixel_codec import PixelCodec
from ddit_jax.data.prefetch import to_mesh
from ddit_jax.data.prepare.cache_format import ArrayFormat
from ddit_jax.data.prepare.cache_writer import (
  CacheEncoder,
  RowEncoders,
  RowReader,
)
from ddit_jax.data.prepare.shard_writer import (
  Processes,
  ShardWriter,
)
from ddit_jax.data.prepare.shards import (
  Manifest,
  num_parts_for,
  sampled_mean,
  shards_bytes,
)
from ddit_jax.data.prepare.tally import RecordProgress
from ddit_jax.data.text import TextTransform
from ddit_jax.errors import preparing
from ddit_jax.experiment.config import Config
from ddit_jax.experiment.data import (
  CacheRequest,
  features_origin,
  latents_origin,
  open_sources,
)
from ddit_jax.experiment.model import DualModel
from ddit_jax.experiment.pretrained import PretrainedModel
from ddit_jax.experiment.vocabulary import make_tokenizer
from ddit_jax.files import check_free_space, local_path
from ddit_jax.models.module import Variables
from ddit_jax.sharding.mesh import MeshConfig, batch_ways


class LocalEncoders:
  """A model's encoders; their weights are read when first used.

  Each process encodes its own rows without waiting for the others.

  Attributes:
    num_rows: most rows in one call; fewer are padded, so that every call runs
      the same program.
  """

  def __init__(
    self,
    model: DualModel,
    weights: PretrainedModel,
    *,
    rows_per_device: int,
  ):
    """Args:
    model: with an autoencoder.
    weights: of its encoders.
    rows_per_device: rows encoded at once on one device.
    """
    self._model, self._weights = model, weights
    self._mesh = MeshConfig().make(jax.local_devices())
    self._variables: dict[str, Variables] = {}
    self._to_moments = jax.jit(self._moments_of)
    self._to_features = jax.jit(self._features_of)
    self.num_rows = rows_per_device * batch_ways(self._mesh)

  def moments(
    self, pixels: UInt8[np.ndarray, "rows height width 3"]
  ) -> Float32[Array, "num_rows latent_height latent_width moments"]:
    """Images to moments, padded to `num_rows`.

    Returns before they are computed.
    """
    return self._run(self._to_moments, "vae", pixels)

  def features(
    self, tokens: Int32[np.ndarray, "rows length"]
  ) -> Float[Array, "num_rows length context_dim"]:
    """Clean tokens to features in the encoder's dtype."""
    return self._run(self._to_features, "text_encoder", tokens)

  def _moments_of(self, variables: Variables, pixels: jax.Array) -> jax.Array:
    scaled = PixelCodec().encode(pixels)
    vae = self._model.autoencoder
    return vae.apply(variables, scaled, method="encode").moments()

  def _features_of(self, variables: Variables, tokens: jax.Array) -> jax.Array:
    return self._model.text_encoder.apply(variables, tokens)

  def _run(self, function, name: str, rows: np.ndarray) -> jax.Array:
    if name not in self._variables:
      part = self._model.parts()[name]
      self._variables[name] = self._weights.restore(name, part, self._mesh)
    missing = self.num_rows - len(rows)
    padded = np.concatenate([rows, np.repeat(rows[-1:], missing, axis=0)])
    with jax.set_mesh(self._mesh):
      return function(self._variables[name], to_mesh(padded, self._mesh))


_MOST_ROWS_PER_DEVICE = 32

_log = logging.getLogger(__name__)


def write_caches(
  config: Config,
  request: CacheRequest,
  progress: RecordProgress | None = None,
) -> dict[str, Manifest]:
  """Writes or finishes the caches of all sources of a task.

  Args:
    config: of the run that will read them.
    request: what to write.
    progress: called after every chunk of a source's rows.

  Returns:
    Name of each source to the contents of its cache.

  Raises:
    InputError: nothing to cache, too little space, too many bad records, or a
      folder with other contents.
  """
  with preparing():
    writers = _writers(config, request, progress)
    return {name: writer.write() for name, writer in writers.items()}


def _writers(
  config: Config, request: CacheRequest, progress: RecordProgress | None
) -> dict[str, ShardWriter]:
  """One per source, checked before anything is encoded."""
  request.check(config)
  task = config.data.tasks()[request.task]
  weights = config.model.open_encoders()
  opened = open_sources(config.data)
  tokenizer = make_tokenizer(config.data, weights, opened)
  sources = request.sources(config, opened)
  model = config.make_model(tokenizer, weights)
  rows_per_device = request.rows_per_device or min(
    max(1, task.batch_size // jax.device_count()), _MOST_ROWS_PER_DEVICE
  )
  local = LocalEncoders(
    model,
    weights,
    rows_per_device=rows_per_device,
  )
  dtype, side = config.model.encoder_dtype, task.image_size
  rows, columns, channels = model.latent_shape(side, side)
  texts = feature = features = None
  if request.has_features:
    texts = TextTransform(tokenizer=tokenizer, config=task)
    width = model.text_encoder.module.config.width
    feature = ArrayFormat((task.text_length, width), dtype)
    features = features_origin(config, request.task, tokenizer)
  writers, needed = {}, 0
  for name, source in sources.items():
    encoder = CacheEncoder(
      reader=RowReader(
        source=source, images=ImageTransform(config=task), texts=texts
      ),
      encoders=RowEncoders(
        images=local.moments, texts=local.features, num_rows=local.num_rows
      ),
      moments=ArrayFormat((rows, columns, 2 * channels), dtype),
      feature=feature,
      threads=request.threads,
    )
    record_bytes = sampled_mean(len(source), encoder.record_bytes)
    writers[name] = encoder.writer(
      local_path(request.out) / name,
      latents=latents_origin(config, request.task),
      features=features,
      num_parts=request.num_shards or num_parts_for(len(source), record_bytes),
      rows_per_device=rows_per_device,
      max_bad_rate=request.max_bad_rate,
      progress=progress,
      processes=_this_job(),
    )
    needed += _bytes_to_write(writers[name], record_bytes)
  _check_space(request.out, needed)
  return writers


def _this_job() -> Processes:
  return Processes(
    index=jax.process_index(),
    count=jax.process_count(),
    barrier=multihost_utils.sync_global_devices,
  )


def _check_space(out: str, needed: int) -> None:
  """Logs the free space; InputError if it is too little."""
  facts = check_free_space(
    local_path(out),
    needed,
    remedy="choose another disk, a smaller image_size or text_length, or "
    "--cache=latents without T5's features",
  )
  _log.info("%s in %s", facts, out)


def _bytes_to_write(writer: ShardWriter, record_bytes: float) -> int:
  """Size of the missing parts; also logs the size of the cache."""
  num_records, num_parts = len(writer.source), writer.num_parts
  missing = writer.unfinished_parts()
  total, needed = (
    shards_bytes(
      records,
      num_shards=parts * len(writer.kinds),
      bytes_per_record=record_bytes,
    )
    for records, parts in (
      (num_records, num_parts),
      (sum(map(len, missing)), len(missing)),
    )
  )
  _log.info(
    "%s: %d records of about %s bytes, %.3g GB in all; %d of %d parts are to "
    "be written",
    *(writer.source.name, num_records, f"{record_bytes:,.0f}", total / 1e9),
    *(len(missing), num_parts),
  )
  return needed
