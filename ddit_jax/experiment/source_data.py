"""Both streams of image-text pairs on disk, mixed as the config says."""

import dataclasses
import pathlib
from collections.abc import Mapping

import jax
import numpy as np

from ddit_jax.batch import DualBatch
from ddit_jax.data.examples import Source
from ddit_jax.data.known_names import check_known
from ddit_jax.data.mixtures import Mixture
from ddit_jax.data.read_log import BadRecordLimits, ReadLog
from ddit_jax.data.schedules import parse_schedule
from ddit_jax.data.source_readers import check_have_images, source_readers
from ddit_jax.data.streams import (
  DualStream,
  MixtureStream,
  RowsOf,
  dual_batch,
)
from ddit_jax.data.tokenizer import Tokenizer
from ddit_jax.data.transforms.images import ImageTransform
from ddit_jax.data.transforms.texts import TextTransform
from ddit_jax.data.transforms.training_records import (
  ImageToTextTransform,
  TextToImageTransform,
)
from ddit_jax.experiment.cached_streams import cached_transform, open_caches
from ddit_jax.settings import ExperimentSettings, StreamSettings

_TRANSFORMS = {
  "text_to_image": TextToImageTransform,
  "image_to_text": ImageToTextTransform,
}
_PURPOSES = tuple(_TRANSFORMS)
# Not a seed that a run is likely to have.
_VALIDATION_SEED = 2**31 + 7


@dataclasses.dataclass(frozen=True)
class SourceData:
  """The opened sources of a run, and what reading them has met.

  Attributes:
    settings: of the run.
    tokenizer: of its texts.
    sources: by the name the config gives them.
    log: bad records and cut texts.
    caches: stream -> the sources of its mixture, with encoder outputs in place
      of images; of the streams that read a cache.
  """

  settings: ExperimentSettings
  tokenizer: Tokenizer
  sources: Mapping[str, Source]
  log: ReadLog
  caches: Mapping[str, Mapping[str, Source]]

  @classmethod
  def open(
    cls,
    settings: ExperimentSettings,
    tokenizer: Tokenizer,
    sources: Mapping[str, Source],
    workdir: pathlib.Path,
  ) -> "SourceData":
    """Checks mixtures and caches, and lists unreadable records in `workdir`.

    Raises:
      ValueError: a mixture names unknown sources or makes no sense; a cache is
        missing or was made from something else.
    """
    caches = {}
    for name, stream in settings.data.streams_on().items():
      what = f"data.{name}.mixture names"
      for weights in stream.mixture.values():
        check_known(weights, sources, what=what)
      names = parse_schedule(stream.mixture).names()
      mixed = {one: sources[one] for one in sorted(names)}
      if name == "text_to_image":
        check_have_images(mixed)
      if stream.cache:
        caches[name] = open_caches(settings, name, mixed, tokenizer)
    limits = BadRecordLimits(max_share=settings.data.max_bad_share)
    # Each process lists what it met itself.
    name = f"bad_records.{jax.process_index()}.jsonl"
    log = ReadLog(workdir / name, limits)
    return cls(settings, tokenizer, sources, log, caches)

  def training_stream(self, rows_of: RowsOf = range) -> DualStream:
    """The streams that are on, from their beginning.

    Raises:
      ValueError: a mixture names unknown sources, or a source is empty.
    """
    streams = self.settings.data.streams_on()
    return DualStream(
      **{name: self._stream(name, one) for name, one in streams.items()},
      rows_of=rows_of,
    )

  def validation_batch(self, rows_of: RowsOf = range) -> DualBatch:
    """This process's rows of a fixed batch, the same for every seed.

    The records are of the training sources, drawn in an order of its own with
    the mixture of step 0: its losses show the course of training, not how well
    unseen images are known.
    """
    rows = rows_of(self.settings.data.validation_size)
    read = {}
    for name, stream in self.settings.data.streams_on().items():
      mixture = self._mixture(name, stream, seed=_VALIDATION_SEED)
      records = [mixture[row] for row in rows]
      read[name] = {
        key: np.stack([r[key] for r in records]) for key in records[0]
      }
    return dual_batch(**read)

  def counts(self) -> dict[str, int]:
    """What reading met so far in this process; see `ReadLog.counts`."""
    return {f"data/{name}": n for name, n in self.log.counts().items()}

  def report(self) -> str:
    """One line a source: records, and what its filters left out."""
    lines = [
      f"source {name}: {len(source)} records, left out {dict(source.removed)}"
      for name, source in self.sources.items()
    ]
    streams = self.settings.data.streams()
    lines += [f"{n} reads the cache {streams[n].cache}" for n in self.caches]
    return "\n".join(lines)

  def _stream(self, name: str, stream: StreamSettings) -> MixtureStream:
    seed = self.settings.seed
    return MixtureStream(mixture=self._mixture(name, stream, seed=seed))

  def _mixture(
    self, name: str, stream: StreamSettings, *, seed: int
  ) -> Mixture:
    schedule = parse_schedule(stream.mixture)
    texts = TextTransform(
      tokenizer=self.tokenizer,
      length=stream.text_length,
      rewritten_probability=stream.rewritten_probability,
    )
    images = ImageTransform(
      size=stream.image_size,
      crop=stream.crop,
      flip_probability=stream.flip_probability,
    )
    sources = self.sources
    transform = _TRANSFORMS[name](images=images, texts=texts)
    if name in self.caches:
      sources = self.caches[name]
      cached = cached_transform(self.settings, name, sources.values(), texts)
      transform = cached or transform
    purpose = _PURPOSES.index(name)
    words = np.random.SeedSequence([seed, purpose]).generate_state(2)
    draws, order = (int(word) for word in words)
    readers = source_readers(
      {source: sources[source] for source in schedule.names()},
      transform,
      seed=draws,
      log=self.log,
    )
    return Mixture(readers, schedule, batch_size=stream.batch_size, seed=order)
