"""What `ddit prepare --cache` does: encodes a stream's sources to disk."""

import functools
import logging
import pathlib
from collections.abc import Callable, Mapping

import jax
import numpy as np
from jax.experimental import multihost_utils

from ddit_jax.data.bad_records import Progress
from ddit_jax.data.image import ImageTransform
from ddit_jax.data.pixel_codec import PixelCodec
from ddit_jax.data.prefetch import to_mesh
from ddit_jax.data.prepare.cache_format import (
  ArrayLayout,
  CacheManifest,
  CachePlan,
)
from ddit_jax.data.prepare.cache_writer import (
  CacheWriter,
  Processes,
  RecordSize,
  RowEncoders,
  RowReader,
  record_size,
  require_room,
)
from ddit_jax.data.text import TextTransform
from ddit_jax.errors import preparing
from ddit_jax.experiment.config import Config
from ddit_jax.experiment.data import (
  CacheRequest,
  features_origin,
  latents_origin,
  make_tokenizer,
  open_sources,
)
from ddit_jax.experiment.model import DualModel
from ddit_jax.experiment.pretrained import ConvertedWeights
from ddit_jax.models.module import Variables
from ddit_jax.sharding.mesh import MeshConfig, batch_ways


class LocalEncoders:
  """A model's encoders; their weights are read when first used.

  Each process encodes its own rows and waits for no other.

  Attributes:
    num_rows: most rows in one call; fewer are padded, so that every call runs
      the same program.
  """

  def __init__(
    self,
    model: DualModel,
    weights: ConvertedWeights,
    *,
    placement: str,
    rows_per_device: int,
  ):
    """Args:
    model: with an autoencoder.
    weights: of its encoders.
    placement: see `ConvertedWeights.restore`.
    rows_per_device: rows that one device encodes at once.
    """
    self._model, self._weights, self._placement = model, weights, placement
    self._mesh = MeshConfig().make(jax.local_devices())
    self._variables: dict[str, Variables] = {}
    self._to_moments = jax.jit(self._moments_of)
    self._to_features = jax.jit(self._features_of)
    self.num_rows = rows_per_device * batch_ways(self._mesh)

  def moments(self, pixels: np.ndarray) -> jax.Array:
    """uint8 [rows, height, width, 3] to float32 moments, `num_rows` of them.

    Returns before they are computed.
    """
    return self._run(self._to_moments, "vae", pixels)

  def features(self, tokens: np.ndarray) -> jax.Array:
    """Clean tokens [rows, length] to features in the encoder's dtype."""
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
      self._variables[name] = self._weights.restore(
        name, part, self._mesh, self._placement
      )
    missing = self.num_rows - len(rows)
    padded = np.concatenate([rows, np.repeat(rows[-1:], missing, axis=0)])
    with jax.set_mesh(self._mesh):
      return function(self._variables[name], to_mesh(padded, self._mesh))


# Makes what is called after every chunk of one source's rows.
MakeProgress = Callable[[], Progress]

_MOST_ROWS_PER_DEVICE = 32

_log = logging.getLogger(__name__)


def write_caches(
  settings: Config,
  request: CacheRequest,
  make_progress: MakeProgress | None = None,
) -> dict[str, CacheManifest]:
  """Writes or finishes the caches of all sources of a stream.

  Returns:
    Name of the source to what its cache holds.

  Raises:
    InputError: nothing to cache, too little room, too many bad records, or a
      folder with something else in it.
  """
  with preparing():
    writers = CacheJob(settings, request).writers(make_progress)
    return {name: writer.write() for name, writer in writers.items()}


class CacheJob:
  """The parts of one run, built and checked before anything is encoded."""

  def __init__(self, settings: Config, request: CacheRequest):
    """Raises ValueError unless settings, request and weights fit."""
    request.check(settings)
    self.settings, self.request = settings, request
    self.stream = settings.data.streams()[request.stream]
    self.weights = settings.model.open_encoders()
    opened = open_sources(settings.data)
    self.tokenizer = make_tokenizer(settings.data, self.weights, opened)
    self.sources = request.sources(settings, opened)
    self.model = settings.make_model(self.tokenizer, self.weights)

  def writers(
    self, make_progress: MakeProgress | None
  ) -> dict[str, CacheWriter]:
    """One a source, after it was said how large the caches become.

    Raises:
      PrepareError: larger than what is free.
    """
    encoders = self._encoders()
    writers = {
      name: CacheWriter(
        folder=pathlib.Path(self.request.out) / name,
        plan=self._plan(name),
        reader=self._reader(name),
        encoders=encoders,
        processes=_processes(),
        max_bad_rate=self.request.max_bad_rate,
        threads=self.request.threads,
        progress=make_progress() if make_progress else None,
      )
      for name in self.sources
    }
    self._require_room(writers)
    return writers

  @functools.cached_property
  def moments(self) -> ArrayLayout:
    """Of one image."""
    side, dtype = self.stream.image_size, self.settings.model.encoder_dtype
    rows, columns, channels = self.model.latent_shape(side, side)
    return ArrayLayout((rows, columns, 2 * channels), dtype)

  @functools.cached_property
  def feature(self) -> ArrayLayout | None:
    """Of one text, if features are asked for."""
    if not self.request.has_features:
      return None
    width = self.model.text_encoder.module.config.width
    dtype = self.settings.model.encoder_dtype
    return ArrayLayout((self.stream.text_length, width), dtype)

  @functools.cached_property
  def sizes(self) -> dict[str, RecordSize]:
    """Of the records of each source."""
    return {
      name: record_size(source, self.moments, self.feature)
      for name, source in self.sources.items()
    }

  @property
  def rows_per_device(self) -> int:
    """Images or texts encoded at once."""
    if self.request.rows_per_device is not None:
      return self.request.rows_per_device
    in_training = self.stream.batch_size // jax.device_count()
    return min(max(1, in_training), _MOST_ROWS_PER_DEVICE)

  def _plan(self, name: str) -> CachePlan:
    stream, source = self.request.stream, self.sources[name]
    features = None
    if self.request.has_features:
      features = features_origin(self.settings, stream, self.tokenizer)
    num_shards = self.request.num_shards
    return CachePlan(
      latents=latents_origin(self.settings, stream, source),
      features=features,
      moments=self.moments,
      feature=self.feature,
      num_shards=num_shards or self.sizes[name].num_parts(len(source)),
      rows_per_device=self.rows_per_device,
    )

  def _reader(self, name: str) -> RowReader:
    texts = None
    if self.request.has_features:
      length = self.stream.text_length
      texts = TextTransform(tokenizer=self.tokenizer, length=length)
    images = ImageTransform(size=self.stream.image_size)
    return RowReader(source=self.sources[name], images=images, texts=texts)

  def _encoders(self) -> RowEncoders:
    local = LocalEncoders(
      self.model,
      self.weights,
      placement=self.settings.model.encoder_placement,
      rows_per_device=self.rows_per_device,
    )
    return RowEncoders(
      images=local.moments,
      texts=local.features if self.request.has_features else None,
      num_rows=local.num_rows,
    )

  def _require_room(self, writers: Mapping[str, CacheWriter]) -> None:
    needed = 0
    for name, writer in writers.items():
      size, count = self.sizes[name], len(self.sources[name])
      missing = writer.unfinished_parts()
      needed += size.total(sum(map(len, missing)), len(missing))
      _log.info(
        "%s: %d records of %s, %.3g GB in all; %d of %d parts are to be "
        "written",
        *(name, count, size, size.total(count, writer.plan.num_shards) / 1e9),
        *(len(missing), writer.plan.num_shards),
      )
    _log.info("%s", require_room(pathlib.Path(self.request.out), needed))


def _processes() -> Processes:
  return Processes(
    index=jax.process_index(),
    count=jax.process_count(),
    barrier=multihost_utils.sync_global_devices,
  )
