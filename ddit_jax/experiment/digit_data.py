"""Both streams of the digit world, drawn once and held in memory."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from ddit_jax.batch import DualBatch
from ddit_jax.data import loader
from ddit_jax.data.loader import (
  DualStream,
  MixtureStream,
  RowsOf,
  Stream,
  dual_batch,
)
from ddit_jax.data.mixture import Mixture, WeightSchedule, parse_schedule
from ddit_jax.data.tokenizers import Tokenizer
from ddit_jax.digits import datasets, questions
from ddit_jax.digits.world import World
from ddit_jax.errors import check_known
from ddit_jax.experiment.config import Config

# Apart from `seed` itself, so that no two draws share a generator.
_ORDER_SEED, _POOL_SEED, _VALIDATION_SEED = 1, 2, 3


@dataclasses.dataclass(frozen=True)
class DigitData:
  """The digit world as training reads it.

  Attributes:
    settings: of the run.
    world: which scenes.
    tokenizer: of their texts.
  """

  settings: Config
  world: World
  tokenizer: Tokenizer

  def training_stream(self, rows_of: RowsOf = range) -> DualStream:
    """Shuffled scenes with captions, and a mixture of kinds of text.

    Raises:
      ValueError: a text does not fit, or the mixture names unknown kinds.
    """
    streams = self.settings.data.streams_on()
    return DualStream(
      text_to_image=self._image_stream()
      if "text_to_image" in streams
      else None,
      image_to_text=self._text_stream() if "image_to_text" in streams else None,
      rows_of=rows_of,
    )

  def validation_batch(self, rows_of: RowsOf = range) -> DualBatch:
    """This process's rows of a fixed batch by the validation writers.

    Kinds of text have their shares at the end of training.
    """
    streams = self.settings.data.streams_on()
    drawn = {
      "split": "validation",
      "size": self.settings.data.validation_size,
      "seed": _seed(0, _VALIDATION_SEED),
    }
    loader = {}
    if "text_to_image" in streams:
      loader["text_to_image"] = self.image_records(**drawn)
    if "image_to_text" in streams:
      last = self._schedule().pieces[-1]
      texts = self.text_records(dict(last.parts), **drawn)
      loader["image_to_text"] = texts
    rows = list(rows_of(self.settings.data.validation_size))
    return dual_batch(
      **{
        name: {key: array[rows] for key, array in part.arrays.items()}
        for name, part in loader.items()
      }
    )

  def counts(self) -> dict[str, int]:
    """What reading met: nothing can be wrong with scenes drawn in memory."""
    return {}

  def report(self) -> str:
    """Which world."""
    return f"digit world {self.settings.data.world}"

  def image_records(self, **drawn) -> loader.ArrayRecords:
    """Records of the image loss; `drawn` is split, size and seed."""
    pool = datasets.text_to_image_pool(self.world, **drawn)
    length = self.settings.data.text_to_image.text_length
    return loader.text_to_image_records(
      pool.images, pool.captions, self.tokenizer, length
    )

  def text_records(
    self, shares: Mapping[str, float], **drawn
  ) -> loader.ArrayRecords:
    """Records of the text loss; `drawn` is split, size and seed."""
    pool = datasets.image_to_text_pool(self.world, weights=shares, **drawn)
    length = self.settings.data.image_to_text.text_length
    return loader.image_to_text_records(
      pool.images, pool.prompts, pool.texts, self.tokenizer, length
    )

  def _image_stream(self) -> Stream:
    data, seed = self.settings.data, self.settings.seed
    size = data.text_to_image.pool_size or data.pool_size
    images = self.image_records(
      split="train", size=size, seed=_seed(seed, _POOL_SEED)
    )
    order = _seed(seed, _ORDER_SEED)
    return Stream(images, data.text_to_image.batch_size, order)

  def _text_stream(self) -> MixtureStream:
    data, seed = self.settings.data, self.settings.seed
    pool_size = data.image_to_text.pool_size or data.pool_size
    schedule = self._schedule()
    texts = {
      # As many as at its largest share.
      kind: self.text_records(
        {kind: 1.0},
        split="train",
        size=max(1, round(share * pool_size)),
        seed=_seed(seed, _POOL_SEED) + 1,
      )
      for kind, share in _largest_shares(schedule).items()
    }
    mixture = Mixture(
      texts,
      schedule,
      batch_size=data.image_to_text.batch_size,
      seed=_seed(seed, _ORDER_SEED) + 1,
    )
    # Threads cost more than they give while records are array rows.
    return MixtureStream(mixture=mixture, num_threads=0)

  def _schedule(self) -> WeightSchedule:
    mixture = self.settings.data.image_to_text.mixture
    kinds = {datasets.CAPTION, *questions.kinds(self.world)}
    for weights in mixture.values():
      check_known(
        weights, kinds, what="data.image_to_text.mixture names the kind"
      )
    return parse_schedule(mixture)


def _largest_shares(schedule: WeightSchedule) -> dict[str, float]:
  """Each kind's largest share of the stream at any step."""
  largest: dict[str, float] = {}
  for piece in schedule.pieces:
    total = sum(weight for _, weight in piece.parts)
    for kind, weight in piece.parts:
      largest[kind] = max(largest.get(kind, 0.0), weight / total)
  return largest


def _seed(seed: int, purpose: int) -> int:
  """A 31-bit seed of its own for each purpose."""
  words = np.random.SeedSequence([seed, purpose]).generate_state(1)
  return int(words[0] >> 1)
