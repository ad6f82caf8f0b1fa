"""A small source with everything that can be wrong, and encoders in numpy."""

import pathlib

import ml_dtypes
import numpy as np

from ddit_jax.data.example import BadRecord, Example
from ddit_jax.data.image import ImageConfig, ImageTransform
from ddit_jax.data.prepare.cache_format import ArrayFormat
from ddit_jax.data.prepare.cache_writer import (
  CacheEncoder,
  RowEncoders,
  RowReader,
)
from ddit_jax.data.prepare.shard_writer import ShardWriter
from ddit_jax.data.text import TextConfig, TextTransform
from ddit_jax.data.tokenizers import word_tokenizer
from tests.data import pictures

NUM_RECORDS, SIZE, LENGTH, WIDTH = 23, 8, 4, 3
TOKENIZER = word_tokenizer(["a", "b", "c", "d", "e", "f"])
IMAGES = ImageTransform(config=ImageConfig(image_size=SIZE))
TEXTS = TextTransform(
  tokenizer=TOKENIZER, config=TextConfig(text_length=LENGTH)
)
# Index to what is wrong with it.
UNREADABLE, CUT_IMAGE, NO_IMAGE, BLANK_TEXT, LONG_TEXT = 3, 7, 11, 13, 17
MOMENTS = ArrayFormat((2, 2, 6), "bfloat16")
FEATURE = ArrayFormat((LENGTH, WIDTH), "bfloat16")


class TinySource:
  """Images with one or two own texts, some with a rewritten one."""

  def __init__(self, name="tiny", num_records=NUM_RECORDS):
    self.name, self.removed = name, {"short_side": 2}
    self._num_records = num_records

  def __len__(self):
    return self._num_records

  def __getitem__(self, index):
    if index == UNREADABLE:
      raise BadRecord("missing_file", "gone", f"r{index}")
    pixels = pictures.pixels(9, 8, seed=index)
    image = pictures.encoded(pixels)
    if index == CUT_IMAGE:
      image = image[: len(image) // 2]
    texts = ("a b", "c") if index % 2 else ("d",)
    if index == BLANK_TEXT:
      texts = ("a", "  ")
    if index == LONG_TEXT:
      texts = ("a b c d e f",)
    return Example(
      record_id=f"r{index}",
      image=None if index == NO_IMAGE else image,
      prompt="a " if index == NO_IMAGE else "",
      texts=texts,
      rewritten=("e f",) if index % 5 == 0 else (),
    )

  def fingerprint(self):
    return f"{self.name} {self._num_records}"


def moments_of(pixels: np.ndarray) -> np.ndarray:
  """Something float32 of [rows, 8, 8, 3] that bfloat16 holds."""
  blocks = pixels.reshape(len(pixels), 2, 4, 2, 4, 3).astype(np.float32)
  mean = blocks.mean((2, 4))
  both = np.concatenate([mean, -mean], axis=-1)
  return both.astype(ml_dtypes.bfloat16).astype(np.float32)


def features_of(tokens: np.ndarray) -> np.ndarray:
  """Something bfloat16 of [rows, length]."""
  repeated = np.repeat(tokens[..., None], WIDTH, axis=-1)
  return (repeated * [1, 10, 100]).astype(ml_dtypes.bfloat16)


def padded(function):
  """As the real encoders do, always as many rows."""

  def encode(rows):
    missing = 4 - len(rows)
    return function(np.concatenate([rows, *[rows[-1:]] * missing]))

  return encode


ENCODERS = RowEncoders(
  images=padded(moments_of), texts=padded(features_of), num_rows=4
)


def reader(*, has_features=True, source=None) -> RowReader:
  """Of the tiny source."""
  return RowReader(
    source=source or TinySource(),
    images=IMAGES,
    texts=TEXTS if has_features else None,
  )


def encoder(*, has_features=True, encoders=ENCODERS) -> CacheEncoder:
  """Of the tiny source."""
  return CacheEncoder(
    reader=reader(has_features=has_features),
    encoders=encoders,
    moments=MOMENTS,
    feature=FEATURE if has_features else None,
    threads=2,
  )


def writer(
  folder: pathlib.Path,
  *,
  has_features=True,
  encoders=ENCODERS,
  num_parts=3,
  **more,
) -> ShardWriter:
  """Of the tiny source's cache."""
  return encoder(has_features=has_features, encoders=encoders).writer(
    folder,
    latents={"autoencoder": "v", "image_size": SIZE},
    features={"tokenizer": "k"} if has_features else None,
    num_parts=num_parts,
    rows_per_device=4,
    **{"max_bad_rate": 0.2} | more,
  )


def contents(folder: pathlib.Path) -> dict[str, bytes]:
  """Every file of a folder."""
  return {path.name: path.read_bytes() for path in folder.iterdir()}
