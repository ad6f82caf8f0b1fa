"""The digit world as a source: generated scenes in place of files.

For training, pools of scenes are generated once, tokenised and kept in memory:
`DigitTask`. In dry runs the digit world stands in for files, as a source of
encoded images and texts: `open_digits`.
"""

import dataclasses
import hashlib
import io
import pathlib
import tempfile
from collections.abc import Mapping

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from ddit_jax.data.config import DataConfig
from ddit_jax.data.example import Example, Source, TrainingRecord
from ddit_jax.data.mixture import Mixture, source_seed
from ddit_jax.data.schedule import WeightSchedule, parse_schedule
from ddit_jax.data.sources.packed_texts import PackedDocuments
from ddit_jax.data.sources.pairs import paired
from ddit_jax.data.text import caption_tokens, tokenize_and_pad
from ddit_jax.data.tokenizers import Tokenizer
from ddit_jax.digits import datasets, questions
from ddit_jax.digits.world import WORLDS
from ddit_jax.errors import check_known, suggest

# Added to the run's seed, so that no two draws share a generator.
_ORDER_SEED, _POOL_SEED, _VALIDATION_SEED = 1, 2, 3
# The sources of the text-to-image task.
_POOLS = {
  "scenes": datasets.text_to_image_pool,
  "prompts": datasets.prompt_pool,
}


@dataclasses.dataclass(frozen=True)
class _DigitRecords:
  """Records in memory, one row of every array each; see `mixture.Reader`.

  Attributes:
    arrays: name to array; all have the same number of rows.
  """

  arrays: dict[str, np.ndarray]

  def __len__(self) -> int:
    return len(self.arrays["tokens"])

  def __getitem__(self, index: int) -> TrainingRecord:
    return TrainingRecord(
      arrays={name: array[index] for name, array in self.arrays.items()}
    )

  def read(self, visit: int, index: int) -> TrainingRecord:
    """The same record at every visit."""
    del visit
    return self[index]

  def record_id(self, index: int) -> str:
    """For logs."""
    return f"record {index}"

  @property
  def record_bytes(self) -> int:
    """Size of one record in memory."""
    return sum(array[0].nbytes for array in self.arrays.values())


def _text_to_image_records(
  images: UInt8[np.ndarray, "n canvas canvas 3"],
  captions: list[str],
  tokenizer: Tokenizer,
  length: int,
) -> _DigitRecords:
  """Records {"images", "tokens"} of the image loss.

  Raises:
    ValueError: a caption does not fit `length`.
  """
  known = {c: caption_tokens(tokenizer, c, length) for c in set(captions)}
  tokens = np.stack([known[caption] for caption in captions])
  return _DigitRecords({"images": images, "tokens": tokens})


def _image_to_text_records(
  images: UInt8[np.ndarray, "n canvas canvas 3"],
  prompts: list[str],
  texts: list[str],
  tokenizer: Tokenizer,
  length: int,
) -> _DigitRecords:
  """Records {"images", "tokens", "loss_mask"} of the text loss.

  Texts that do not fit are cut.
  """
  pairs = list(zip(prompts, texts, strict=True))
  known = {p: tokenize_and_pad(tokenizer, *p, length) for p in set(pairs)}
  return _DigitRecords(
    {
      "images": images,
      "tokens": np.stack([known[pair].tokens for pair in pairs]),
      "loss_mask": np.stack([known[pair].loss_mask for pair in pairs]),
    }
  )


class DigitTask:
  """One task's records in the digit world; see `training_data.Task`.

  The sources of the text-to-image task's mixture are "scenes", the default,
  and "prompts", those of generation; those of the image-to-text task's are
  kinds of text: "caption" and the kinds of question.
  """

  is_in_memory = True

  def __init__(
    self,
    name: str,
    data: DataConfig,
    *,
    tokenizer: Tokenizer,
    seed: int,
  ):
    """Generates nothing yet.

    Args:
      name: "text_to_image" or "image_to_text".
      data: which world, and both tasks.
      tokenizer: of their texts.
      seed: of the run.

    Raises:
      ValueError: the mixture names unknown kinds of text.
    """
    self._data, self._config = data, data.tasks()[name]
    self._world, self._tokenizer, self._seed = (
      data.digit_world(),
      tokenizer,
      seed,
    )
    self._has_questions = name == "image_to_text"
    mixture, known = self._config.mixture or {"0": {"scenes": 1}}, set(_POOLS)
    if self._has_questions:
      mixture = self._config.mixture
      known = {datasets.CAPTION, *questions.kinds(self._world)}
    for weights in mixture.values():
      check_known(weights, known, what=f"data.{name}.mixture names the kind")
    self._schedule = parse_schedule(mixture)

  def mixture(self) -> Mixture:
    """Scenes by the training writers, in the order of training.

    Raises:
      ValueError: a caption does not fit the text length.
    """
    pool_size = self._config.pool_size or self._data.pool_size
    pool_seed = _seed(self._seed, _POOL_SEED)
    order_seed = _seed(self._seed, _ORDER_SEED)
    if self._has_questions:
      readers = {
        # The size for its largest weight.
        kind: self._texts(
          {kind: 1.0},
          split="train",
          size=max(1, round(weight * pool_size)),
          seed=pool_seed + 1,
        )
        for kind, weight in _largest_weights(self._schedule).items()
      }
    else:
      readers = {
        kind: self._images(kind, split="train", size=pool_size, seed=pool_seed)
        for kind in sorted(self._schedule.names())
      }

    def seed_of(kind: str) -> int:
      if self._has_questions or kind != "scenes":
        return source_seed(order_seed + 1, kind)
      return int(np.random.SeedSequence([order_seed, 1]).generate_state(1)[0])

    return Mixture(
      readers,
      self._schedule,
      batch_size=self._config.batch_size,
      seed_of=seed_of,
    )

  def validation(self) -> _DigitRecords:
    """`data.validation_size` scenes by the validation writers.

    They are the same for every seed. Kinds of text have their weights at the
    end of training.
    """
    sampling = {
      "split": "validation",
      "size": self._data.validation_size,
      "seed": _seed(0, _VALIDATION_SEED),
    }
    if self._has_questions:
      return self._texts(dict(self._schedule.phases[-1].parts), **sampling)
    # Several kinds are validated on the one with the largest weight.
    parts = dict(self._schedule.phases[-1].parts)
    return self._images(max(parts, key=parts.get), **sampling)

  def _images(self, kind: str, **sampling) -> _DigitRecords:
    pool = _POOLS[kind](self._world, **sampling)
    return _text_to_image_records(
      pool.images, pool.captions, self._tokenizer, self._config.text_length
    )

  def _texts(self, weights: Mapping[str, float], **sampling) -> _DigitRecords:
    pool = datasets.image_to_text_pool(self._world, weights=weights, **sampling)
    return _image_to_text_records(
      pool.images,
      pool.prompts,
      pool.texts,
      self._tokenizer,
      self._config.text_length,
    )


def _largest_weights(schedule: WeightSchedule) -> dict[str, float]:
  """Each kind's largest weight in the task at any step."""
  largest: dict[str, float] = {}
  for phase in schedule.phases:
    total = sum(weight for _, weight in phase.parts)
    for kind, weight in phase.parts:
      largest[kind] = max(largest.get(kind, 0.0), weight / total)
  return largest


def _seed(seed: int, purpose: int) -> int:
  """A separate 31-bit seed for each purpose."""
  words = np.random.SeedSequence([seed, purpose]).generate_state(1)
  return int(words[0] >> 1)


# What the texts of a source are -> weights of kinds of text.
_KINDS = {
  "captions": {"caption": 1.0},
  "questions": {"what_number": 1.0, "what_color": 1.0},
  "documents": {"caption": 1.0},
  "pairs": {"what_number": 1.0, "what_color": 1.0},
}
_NUM_SCENES = 64
_CAPTIONS_IN_DOCUMENT = 4


class _DigitExamples:
  """64 images with captions, questions or pairs, or texts; a `Source`."""

  removed: Mapping[str, int] = {}

  def __init__(self, name: str, texts: str):
    self.name, self._texts = name, texts
    self.has_pairs = texts == "pairs"
    self._pool = datasets.image_to_text_pool(
      WORLDS["one_digit"], "train", _NUM_SCENES, 0, _KINDS[texts]
    )

  def __len__(self) -> int:
    return _NUM_SCENES

  def __getitem__(self, index: int) -> Example:
    if not self.has_pairs:
      return self._example(index, asked=index)
    texts, other = self._pool.texts, index
    while texts[other] == texts[index]:
      other = (other + 1) % _NUM_SCENES
    rejected = self._example(other, asked=index)
    return paired(self._example(index, asked=index), rejected)

  def _example(self, index: int, *, asked: int) -> Example:
    """An image and its text, for the prompt of the scene `asked`."""
    pool = self._pool
    image, text = None, pool.texts[index]
    if self._texts == "documents":
      others = range(index, index + _CAPTIONS_IN_DOCUMENT)
      text = " ".join(pool.texts[i % _NUM_SCENES] for i in others)
    else:
      image = _png(pool.images[index])
    return Example(
      record_id=f"{self.name}:{index}",
      image=image,
      prompt=pool.prompts[asked],
      texts=(text,),
    )

  def fingerprint(self) -> str:
    """Depends on the kind of texts; the scenes are fixed."""
    return hashlib.sha256(f"digits {self._texts}".encode()).hexdigest()


def open_digits(name: str, *, texts: str = "captions") -> Source:
  """Opens generated scenes of one digit.

  Args:
    name: name in the config.
    texts: "captions", "questions", "pairs" (questions, and another scene that
      is rejected), or "documents" without images.

  Raises:
    ValueError: `texts` is unknown.
  """
  if texts not in _KINDS:
    raise ValueError(f"unknown texts {texts!r}: {suggest(texts, _KINDS)}")
  examples = _DigitExamples(name, texts)
  if texts != "documents":
    return examples
  return PackedDocuments(
    examples,
    folder=pathlib.Path(tempfile.gettempdir()) / "ddit_jax_digits",
    wanted_index_folder=None,
  )


def _png(pixels: UInt8[np.ndarray, "canvas canvas 3"]) -> bytes:
  file = io.BytesIO()
  Image.fromarray(pixels).save(file, "png")
  return file.getvalue()
