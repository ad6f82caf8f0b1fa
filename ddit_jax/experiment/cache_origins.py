"""What a run's settings say that its caches must have been made from."""

import hashlib
import json
import pathlib
from typing import Any

from ddit_jax.checkpoint.manifest import contents_digest
from ddit_jax.conversion.checkpoint_record import read_record
from ddit_jax.conversion.components import config_to_record
from ddit_jax.data.caches.cache_manifest import FeaturesOrigin, LatentsOrigin
from ddit_jax.data.examples import Source
from ddit_jax.data.tokenizer import Tokenizer
from ddit_jax.models.sizes import size
from ddit_jax.settings import OF_ENCODERS, ExperimentSettings

TEXT_TO_IMAGE = "text_to_image"

# To be changed with `ImageTransform`, so that older caches are refused.
_IMAGE_TRANSFORM = (
  "short side by antialiased bicubic, centre square, not mirrored"
)
_DIGEST_BYTES = 16


def check_can_be_cached(settings: ExperimentSettings, stream: str) -> None:
  """Raises ValueError unless the stream's images are always the same."""
  given = settings.data.streams()[stream]
  if not settings.data.sources:
    raise ValueError(
      "a cache holds images of data.sources, and the digit world draws its "
      f"own: set data.{stream}.cache='' or name data.sources"
    )
  if not settings.model.encoders_from:
    raise ValueError(
      "a cache holds outputs of frozen encoders, and model.encoders_from is "
      f"empty: name converted weights, or set data.{stream}.cache=''"
    )
  if given.crop != "centre" or given.flip_probability:
    raise ValueError(
      f"data.{stream} has crop={given.crop!r} and flip_probability="
      f"{given.flip_probability}, but a cache holds each image once: set "
      f"data.{stream}.crop=centre and data.{stream}.flip_probability=0.0, or "
      f"read the images with data.{stream}.cache=''"
    )


def takes_features(settings: ExperimentSettings, stream: str) -> bool:
  """Whether features of clean captions serve the stream.

  Masked texts need the text encoder anew at each step, and some networks embed
  their tokens themselves.
  """
  if stream != TEXT_TO_IMAGE:
    return False
  if settings.model.size != OF_ENCODERS:
    return size(settings.model.size).context_dim is not None
  record = read_record(_encoders_folder(settings))
  return record.configs["network"].context_dim is not None


def latents_origin(
  settings: ExperimentSettings, stream: str, source: Source
) -> LatentsOrigin:
  """Where the moments of a source's images come from."""
  return LatentsOrigin(
    source=source.fingerprint(),
    num_records=len(source),
    autoencoder=_encoder_digest(settings, "vae"),
    encoder_dtype=settings.model.encoder_dtype,
    image_size=settings.data.streams()[stream].image_size,
    image_transform=_IMAGE_TRANSFORM,
  )


def features_origin(
  settings: ExperimentSettings, stream: str, tokenizer: Tokenizer
) -> FeaturesOrigin:
  """Where the features of texts come from."""
  files = {
    name: hashlib.blake2b(data).hexdigest()
    for name, data in tokenizer.files().items()
  }
  return FeaturesOrigin(
    text_encoder=_encoder_digest(settings, "text_encoder"),
    encoder_dtype=settings.model.encoder_dtype,
    tokenizer=_digest(files),
    text_length=settings.data.streams()[stream].text_length,
  )


def _encoder_digest(settings: ExperimentSettings, name: str) -> str:
  """Of an encoder's configuration and of its weights as the manifest says."""
  folder = _encoders_folder(settings)
  config = config_to_record(read_record(folder).configs[name])
  return _digest([config, contents_digest(folder, name)])


def _encoders_folder(settings: ExperimentSettings) -> pathlib.Path:
  return pathlib.Path(settings.model.encoders_from)


def _digest(body: Any) -> str:
  text = json.dumps(body, sort_keys=True).encode()
  return hashlib.blake2b(text, digest_size=_DIGEST_BYTES).hexdigest()
