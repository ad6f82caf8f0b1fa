"""A cache as a source: examples with moments in place of image files."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from ddit_jax.data.example import BadRecord
from ddit_jax.data.prepare.cache_format import (
  CACHE,
  ArrayFormat,
  CachedRecord,
  array_format,
  decode_cached,
)
from ddit_jax.data.prepare.shards import (
  ShardReader,
  check_shards,
  read_dataset,
)
from ddit_jax.data.transforms import ImageToTextTransform, TextToImageTransform
from ddit_jax.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class _CachedExample(CachedRecord):
  """One record as `TextTransform` and the cached transforms read it.

  Attributes:
    read_feature: a feature entry to [length, width].
  """

  read_feature: Callable[[int], Float[np.ndarray, "length width"]]

  @property
  def image(self) -> CachedRecord | None:
    """Itself if it has an image, even a bad one."""
    has_image = self.moments is not None or self.bad_image is not None
    return self if has_image else None

  def features(self, text: str) -> Float[np.ndarray, "length width"]:
    """The features of one of the texts, [length, width].

    Raises:
      BadRecord: corrupt_shard.
    """
    # Equal texts have equal features.
    place = (*self.texts, *self.rewritten).index(text)
    entry = self.feature_entries[place]
    if entry is None:
      raise BadRecord(
        "corrupt_shard", "a text without its features", self.record_id
      )
    return self.read_feature(entry)


class CachedSource:
  """The examples of a cache, in the order of the source it was made from.

  Attributes:
    name: name of the source in the config.
    removed: filter's name to the number of records that the source skipped.
    options: options that determined its bytes, see `CacheEncoder.writer`.
    moments: of one image.
    feature: of one text's features; None without features.
  """

  def __init__(
    self,
    name: str,
    folder: str | os.PathLike,
    *,
    removed: Mapping[str, int],
  ):
    """Opens no shard yet; readers open when first used and are shared.

    Raises:
      InputError: it is not finished, damaged, or of another version.
    """
    folder = pathlib.Path(folder)
    manifest = read_dataset(folder, CACHE)
    check_shards(folder, manifest.shards)
    self.name, self.removed = name, dict(removed)
    self.options, self._source = manifest.options, manifest.source
    try:
      feature = self.options["feature"]
      self.moments: ArrayFormat = array_format(self.options["moments"])
      self.feature = None if feature is None else array_format(feature)
    except (KeyError, TypeError, ValueError) as error:
      raise InputError(
        f"{folder} is damaged ({type(error).__name__}: {error}): write the "
        "cache again"
      ) from error
    self._latents, self._features = (
      ShardReader([(folder, shard) for shard in manifest.of_kind(kind)])
      for kind in ("latents", "features")
    )

  def __len__(self) -> int:
    return len(self._latents)

  def __getitem__(self, index: int) -> _CachedExample:
    """One example.

    Raises:
      BadRecord: the source's error, or corrupt_shard.
    """
    where = f"{self.name} cache:{index}"
    record = decode_cached(self._latents.read(index, where), where)
    if record.bad_record is not None:
      raise BadRecord(*record.bad_record, record.record_id)
    part, _ = self._latents.place(index)

    def read_feature(entry: int) -> Float[np.ndarray, "length width"]:
      data = self._features.read(self._features.start(part) + entry, where)
      return self.feature.unpack(data, where)

    return _CachedExample(**vars(record), read_feature=read_feature)

  def fingerprint(self) -> str:
    """That of the source."""
    return self._source["fingerprint"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoredMoments:
  """Replaces `ImageTransform`.

  Attributes:
    moments: of one image.
    flips: False, as a cache holds no mirrored images.
  """

  moments: ArrayFormat
  flips: ClassVar[bool] = False

  def __call__(
    self,
    record: CachedRecord,
    rng: np.random.Generator,
    *,
    record_id: str,
    may_flip: bool,
  ) -> Float[np.ndarray, "rows columns moments"]:
    """Moments [rows, columns, 2 * channels]; draws nothing.

    Raises:
      BadRecord: the error of decoding the image, or corrupt_shard.
    """
    del rng, may_flip
    if record.bad_image is not None:
      raise BadRecord(*record.bad_image, record_id)
    return self.moments.unpack(record.moments, record_id)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CachedTextToImageTransform(TextToImageTransform):
  """Records {"images", "tokens"} with moments as images, or also "features".

  Attributes:
    images: to moments.
    texts: to int32 [length].
    feature: of one text's features; None omits them.
  """

  images: StoredMoments
  feature: ArrayFormat | None

  @property
  def record_bytes(self) -> int:
    """Size of one record in memory."""
    held = self.feature.num_bytes if self.feature else 0
    return held + _moments_and_tokens_bytes(self)

  def more_arrays(
    self, example: _CachedExample, text: str
  ) -> dict[str, np.ndarray]:
    """The text's features, [length, width]; raises BadRecord."""
    if self.feature is None:
      return {}
    return {"features": example.features(text)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class CachedImageToTextTransform(ImageToTextTransform):
  """Records of the text loss with moments as images.

  Attributes:
    images: to moments.
    texts: to int32 and bool [length].
  """

  images: StoredMoments

  @property
  def record_bytes(self) -> int:
    """Size of one record in memory."""
    return _moments_and_tokens_bytes(self) + self.texts.length + 1

  def no_image(self) -> dict[str, np.ndarray]:
    """Image arrays for the record of a text without an image."""
    moments = self.images.moments.zeros()
    return {"images": moments, "has_image": np.bool_(False)}


def _moments_and_tokens_bytes(transform) -> int:
  tokens = np.dtype(np.int32).itemsize * transform.texts.length
  return transform.images.moments.num_bytes + tokens
