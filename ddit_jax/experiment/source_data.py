"""Both streams of image-text pairs on disk, mixed as the config says."""

import dataclasses
import pathlib
from collections.abc import Mapping

import jax
import numpy as np

from ddit_jax.batch import DualBatch, ImageToTextBatch, TextToImageBatch
from ddit_jax.data.examples import Source
from ddit_jax.data.known_names import check_known
from ddit_jax.data.mixtures import Mixture
from ddit_jax.data.read_log import BadRecordLimits, ReadLog
from ddit_jax.data.reading import ReadExamples
from ddit_jax.data.schedules import parse_schedule
from ddit_jax.data.streams import DualStream, MixtureStream
from ddit_jax.data.tokenizer import Tokenizer
from ddit_jax.data.transforms.images import ImageTransform
from ddit_jax.data.transforms.texts import TextTransform
from ddit_jax.data.transforms.training_records import (
  ImageToTextTransform,
  TextToImageTransform,
)
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
  """

  settings: ExperimentSettings
  tokenizer: Tokenizer
  sources: Mapping[str, Source]
  log: ReadLog

  @classmethod
  def open(
    cls,
    settings: ExperimentSettings,
    tokenizer: Tokenizer,
    sources: Mapping[str, Source],
    workdir: pathlib.Path,
  ) -> "SourceData":
    """Checks the mixtures, and lists unreadable records in `workdir`.

    Raises:
      ValueError: a mixture names unknown sources or makes no sense.
    """
    for name, stream in settings.data.streams().items():
      what = f"data.{name}.mixture names"
      for weights in stream.mixture.values():
        check_known(weights, sources, what=what)
      parse_schedule(stream.mixture)
    limits = BadRecordLimits(max_share=settings.data.max_bad_share)
    # Each process lists what it met itself.
    name = f"bad_records.{jax.process_index()}.jsonl"
    return cls(settings, tokenizer, sources, ReadLog(workdir / name, limits))

  def training_stream(self) -> DualStream:
    """Both streams, from their beginning.

    Raises:
      ValueError: a mixture names unknown sources, or a source is empty.
    """
    streams = self.settings.data.streams()
    return DualStream(
      *(self._stream(name, streams[name]) for name in _PURPOSES)
    )

  def validation_batch(self) -> DualBatch:
    """This process's rows of a fixed batch, the same for every seed.

    The records are of the training sources, drawn in an order of its own with
    the mixture of step 0: its losses show the course of training, not how well
    unseen images are known.
    """
    size = self.settings.data.validation_size
    rows = range(jax.process_index(), size, jax.process_count())
    streams = self.settings.data.streams()
    read = []
    for name in _PURPOSES:
      mixture = self._mixture(name, streams[name], seed=_VALIDATION_SEED)
      records = [mixture[row] for row in rows]
      read.append(
        {key: np.stack([r[key] for r in records]) for key in records[0]}
      )
    return DualBatch(TextToImageBatch(**read[0]), ImageToTextBatch(**read[1]))

  def counts(self) -> dict[str, int]:
    """What reading met so far in this process; see `ReadLog.counts`."""
    return {f"data/{name}": n for name, n in self.log.counts().items()}

  def report(self) -> str:
    """One line a source: records, and what its filters left out."""
    return "\n".join(
      f"source {name}: {len(source)} records, left out {dict(source.removed)}"
      for name, source in self.sources.items()
    )

  def _stream(self, name: str, stream: StreamSettings) -> MixtureStream:
    seed = self.settings.seed
    return MixtureStream(mixture=self._mixture(name, stream, seed=seed))

  def _mixture(
    self, name: str, stream: StreamSettings, *, seed: int
  ) -> Mixture:
    schedule = parse_schedule(stream.mixture)
    transform = _TRANSFORMS[name](
      images=ImageTransform(
        size=stream.image_size,
        crop=stream.crop,
        flip_probability=stream.flip_probability,
      ),
      texts=TextTransform(
        tokenizer=self.tokenizer,
        length=stream.text_length,
        rewritten_probability=stream.rewritten_probability,
      ),
    )
    purpose = _PURPOSES.index(name)
    words = np.random.SeedSequence([seed, purpose]).generate_state(2)
    draws, order = (int(word) for word in words)
    readers = {
      source: ReadExamples(
        self.sources[source], transform, seed=draws, log=self.log
      )
      for source in sorted(schedule.names() & self.sources.keys())
    }
    return Mixture(readers, schedule, batch_size=stream.batch_size, seed=order)
