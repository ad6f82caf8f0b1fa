"""A cache of latents as large as SD3's, for measuring how fast it is read."""

import pathlib

import numpy as np

from ddit_jax.data.example import Source
from ddit_jax.data.image import ImageTransform
from ddit_jax.data.prepare.cache_format import (
  ArrayLayout,
  CachePlan,
  LatentsOrigin,
)
from ddit_jax.data.prepare.cache_writer import (
  CacheWriter,
  RowEncoders,
  RowReader,
)
from ddit_jax.data.prepare.cached_source import CachedSource

# Enough that random reading meets other places of the shard.
NUM_CACHED = 512
# As SD3's autoencoder: an eighth of the side, 16 channels.
DOWNSAMPLING, MOMENT_CHANNELS = 8, 32


def write_cache(source: Source, size: int, folder: str) -> CachedSource:
  """A cache of latents of some pictures: no encoder runs, all are alike."""
  side = size // DOWNSAMPLING
  moments = ArrayLayout((side, side, MOMENT_CHANNELS), "bfloat16")
  numbers = np.random.default_rng(0).integers(-9, 10, moments.shape)
  origin = LatentsOrigin(
    source=source.fingerprint(),
    num_records=len(source),
    autoencoder="none",
    encoder_dtype=moments.dtype,
    image_size=size,
    image_transform="centre",
  )
  CacheWriter(
    folder=pathlib.Path(folder),
    plan=CachePlan(
      latents=origin,
      features=None,
      moments=moments,
      feature=None,
      num_shards=1,
      rows_per_device=32,
    ),
    reader=RowReader(
      source=source, images=ImageTransform(size=size), texts=None
    ),
    encoders=RowEncoders(
      images=lambda rows: np.stack([numbers.astype(np.float32)] * len(rows)),
      texts=None,
      num_rows=32,
    ),
  ).write()
  return CachedSource(source.name, folder, removed={})
