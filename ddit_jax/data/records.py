"""Record sources: arrays with random access that Grain can read."""

import dataclasses

import numpy as np

from ddit_jax.data.text_layout import caption_tokens, lay_out
from ddit_jax.data.tokenizer import Tokenizer

Record = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class ArrayRecords:
  """Records held in memory, one row of every array each.

  Attributes:
    arrays: name to array; all have the same number of rows.
    num_truncated: texts that lost tokens to the text length.
  """

  arrays: dict[str, np.ndarray]
  num_truncated: int = 0

  def __post_init__(self):
    rows = {name: len(array) for name, array in self.arrays.items()}
    if len(set(rows.values())) != 1:
      raise ValueError(f"arrays of unequal numbers of rows: {rows}")

  def __len__(self) -> int:
    return len(next(iter(self.arrays.values())))

  def __getitem__(self, index: int) -> Record:
    return {name: array[index] for name, array in self.arrays.items()}

  def read(self, index: int, visit: int) -> Record:
    """The same record at every visit."""
    del visit
    return self[index]

  @property
  def record_bytes(self) -> int:
    """Size of one record in memory."""
    return sum(array[0].nbytes for array in self.arrays.values())


def text_to_image_records(
  images: np.ndarray, captions: list[str], tokenizer: Tokenizer, length: int
) -> ArrayRecords:
  """Records {"images", "tokens"} of the image loss.

  Raises:
    ValueError: a caption does not fit `length`.
  """
  cache: dict[str, np.ndarray] = {}
  for caption in captions:
    if caption not in cache:
      cache[caption] = caption_tokens(tokenizer, caption, length)
  tokens = np.stack([cache[caption] for caption in captions])
  return ArrayRecords({"images": images, "tokens": tokens})


def image_to_text_records(
  images: np.ndarray,
  prompts: list[str],
  texts: list[str],
  tokenizer: Tokenizer,
  length: int,
) -> ArrayRecords:
  """Records {"images", "tokens", "is_target"} of the text loss.

  Texts that do not fit are cut and counted in `num_truncated`.
  """
  cache = {}
  for pair in zip(prompts, texts, strict=True):
    if pair not in cache:
      cache[pair] = lay_out(tokenizer, *pair, length)
  rows = [cache[pair] for pair in zip(prompts, texts, strict=True)]
  return ArrayRecords(
    {
      "images": images,
      "tokens": np.stack([row.tokens for row in rows]),
      "is_target": np.stack([row.is_target for row in rows]),
    },
    num_truncated=sum(row.num_truncated > 1 for row in rows),
  )
