"""A cache of latents as large as SD3's, for measuring how fast it is read."""

import pathlib

import numpy as np

from ddit_jax.data.example import Source
from ddit_jax.data.image import ImageTransform
from ddit_jax.data.prepare.cache_format import ArrayFormat
from ddit_jax.data.prepare.cache_writer import (
  CacheEncoder,
  RowEncoders,
  RowReader,
)
from ddit_jax.data.prepare.cached_source import CachedSource

# Enough that random reading meets other places of the shard.
NUM_CACHED = 512
# As SD3's autoencoder: an eighth of the side, 16 channels.
DOWNSAMPLING, MOMENT_CHANNELS = 8, 32


def write_cache(source: Source, size: int, folder: str) -> CachedSource:
  """A cache of latents of some images: no encoder runs, all are alike."""
  side = size // DOWNSAMPLING
  moments = ArrayFormat((side, side, MOMENT_CHANNELS), "bfloat16")
  numbers = np.random.default_rng(0).integers(-9, 10, moments.shape)
  reader = RowReader(
    source=source, images=ImageTransform(size=size), texts=None
  )
  encoders = RowEncoders(
    images=lambda rows: np.stack([numbers.astype(np.float32)] * len(rows)),
    texts=None,
    num_rows=32,
  )
  encoder = CacheEncoder(
    reader=reader, encoders=encoders, moments=moments, feature=None
  )
  writer = encoder.writer(
    pathlib.Path(folder),
    latents={"image_size": size},
    features=None,
    num_parts=1,
    rows_per_device=32,
  )
  writer.write()
  return CachedSource(source.name, folder, removed={})
