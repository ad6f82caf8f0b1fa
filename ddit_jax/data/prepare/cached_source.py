"""A cache as a source: examples with moments in place of image files."""

import bisect
import dataclasses
import itertools
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource

from ddit_jax.data.example import BadRecord
from ddit_jax.data.prepare import cache_format
from ddit_jax.data.prepare.cache_format import (
  ArrayLayout,
  CachedRecord,
  CachePlan,
  check_files,
  read_manifest,
)
from ddit_jax.data.prepare.shards import Shard
from ddit_jax.data.transforms import ImageToTextTransform, TextToImageTransform


@dataclasses.dataclass(frozen=True)
class CachedExample:
  """What `TextTransform` and the cached transforms read of one record.

  Attributes:
    record: as it was stored.
    read_feature: a feature entry to [length, width].
  """

  record: CachedRecord
  read_feature: Callable[[int], np.ndarray]

  @property
  def record_id(self) -> str:
    return self.record.record_id

  @property
  def prompt(self) -> str:
    return self.record.prompt

  @property
  def texts(self) -> tuple[str, ...]:
    return self.record.texts

  @property
  def rewritten(self) -> tuple[str, ...]:
    return self.record.rewritten

  @property
  def image(self) -> CachedRecord | None:
    """The record if it has an image, be it a bad one."""
    is_text_alone = self.record.moments is None and not self.record.bad_image
    return None if is_text_alone else self.record

  def features(self, text: str) -> np.ndarray:
    """The features of one of the texts, [length, width].

    Raises:
      BadRecord: corrupt_shard.
    """
    record = self.record
    # Equal texts have equal features.
    place = (*record.texts, *record.rewritten).index(text)
    entry = record.feature_entries[place]
    if entry is None:
      raise BadRecord(
        "corrupt_shard", "a text without its features", self.record_id
      )
    return self.read_feature(entry)


class CachedSource:
  """The examples of a cache, in the order of the source it was made from.

  Attributes:
    name: as the config calls the source.
    removed: filter's name to the number of records that the source left out.
    plan: what the cache was made from.
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
      ValueError: it is not finished, damaged, or of another version.
    """
    folder = pathlib.Path(folder)
    manifest = read_manifest(folder)
    check_files(folder, manifest)
    self.name, self.removed = name, dict(removed)
    self.plan: CachePlan = manifest.plan
    self._latents = _Shards(folder, manifest.latents)
    self._features = _Shards(folder, manifest.features)

  def __len__(self) -> int:
    return len(self._latents)

  def __getitem__(self, index: int) -> CachedExample:
    """One example.

    Raises:
      BadRecord: what the source raised, or corrupt_shard.
    """
    where = f"{self.name} cache:{index}"
    record = cache_format.decode(self._latents.read(index, where), where)
    if record.bad_record is not None:
      raise BadRecord(*record.bad_record, record.record_id)
    first = self._features.start(self._latents.shard_of(index))

    def read_feature(entry: int) -> np.ndarray:
      data = self._features.read(first + entry, where)
      return unpacked(self.plan.feature, data, where)

    return CachedExample(record, read_feature)

  def fingerprint(self) -> str:
    """That of the source."""
    return self.plan.latents.source


class _Shards:
  """The records of some shards, one after the other."""

  def __init__(self, folder: pathlib.Path, shards: Sequence[Shard]):
    counts = [shard.num_records for shard in shards]
    self._ends = list(itertools.accumulate(counts))
    # A range behind the path spares opening every file for its count.
    paths = [f"{folder / s.name}[0:{s.num_records}]" for s in shards]
    self._records = ArrayRecordDataSource(paths) if paths else None

  def __len__(self) -> int:
    return self._ends[-1] if self._ends else 0

  def shard_of(self, index: int) -> int:
    return bisect.bisect_right(self._ends, index)

  def start(self, shard: int) -> int:
    return self._ends[shard - 1] if shard and self._ends else 0

  def read(self, index: int, where: str) -> bytes:
    """Raises BadRecord if the chunk's hash is wrong."""
    try:
      return self._records[index]
    # The reader checks a hash of every chunk and has only this exception.
    except RuntimeError as error:
      detail = " ".join(str(error).split())
      raise BadRecord("corrupt_shard", detail, where) from error


def unpacked(layout: ArrayLayout, data: bytes, where: str) -> np.ndarray:
  """The stored array; raises BadRecord for another number of bytes."""
  try:
    return layout.unpack(data)
  except ValueError as error:
    raise BadRecord("corrupt_shard", str(error), where) from error


@dataclasses.dataclass(frozen=True, kw_only=True)
class StoredMoments:
  """Stands where `ImageTransform` does.

  Attributes:
    layout: of an image's moments.
    flip_probability: 0, as a cache holds no mirrored images.
  """

  layout: ArrayLayout
  flip_probability: float = 0.0

  def __call__(
    self,
    record: CachedRecord,
    rng: np.random.Generator,
    *,
    record_id: str,
    may_flip: bool,
  ) -> np.ndarray:
    """Moments [rows, columns, 2 * channels]; draws nothing.

    Raises:
      BadRecord: what decoding the image raised, or corrupt_shard.
    """
    del rng, may_flip
    if record.bad_image is not None:
      raise BadRecord(*record.bad_image, record_id)
    return unpacked(self.layout, record.moments, record_id)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CachedTextToImageTransform(TextToImageTransform):
  """Records {"images", "tokens"} with moments as images, or also "features".

  Attributes:
    images: to moments.
    texts: to int32 [length].
    feature: layout of one text's features; None leaves them out.
  """

  images: StoredMoments
  feature: ArrayLayout | None

  @property
  def record_bytes(self) -> int:
    """Size of one record in memory."""
    held = self.feature.num_bytes if self.feature else 0
    return held + _moments_and_tokens_bytes(self)

  def more_arrays(
    self, example: CachedExample, text: str
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
    """What stands in the record of a text without an image."""
    moments = self.images.layout.zeros()
    return {"images": moments, "has_image": np.bool_(False)}


def _moments_and_tokens_bytes(transform) -> int:
  tokens = np.dtype(np.int32).itemsize * transform.texts.length
  return transform.images.layout.num_bytes + tokens
