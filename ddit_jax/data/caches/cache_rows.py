"""A source's records, decoded and tokenised for the encoders."""

import collections
import concurrent.futures
import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from ddit_jax.data.caches.cache_format import CachedRecord
from ddit_jax.data.examples import BadRecord, Example, Source
from ddit_jax.data.text_layout import LaidOutText
from ddit_jax.data.transforms.images import ImageTransform
from ddit_jax.data.transforms.texts import TextTransform
from ddit_jax.data.transforms.training_records import num_lost_tokens
from ddit_jax.data.unfinished_folder import PrepareError


@dataclasses.dataclass(frozen=True, kw_only=True)
class CacheRow:
  """One record on its way into a cache.

  Attributes:
    index: of the record in its source.
    record: all but moments and feature entries.
    pixels: uint8 [size, size, 3]; None without an image that can be used.
    tokens: of each own, then each rewritten text, int32 [length]; None for a
      text that cannot be used. () if no features are asked for.
    num_truncated: texts that are longer than `length`.
    bad_texts: reason of each text that cannot be used.
  """

  index: int
  record: CachedRecord
  pixels: np.ndarray | None = None
  tokens: tuple[np.ndarray | None, ...] = ()
  num_truncated: int = 0
  bad_texts: tuple[str, ...] = ()

  @property
  def bad(self) -> tuple[str, str] | None:
    """(reason, detail) if it is a bad record."""
    return self.record.bad_record or self.record.bad_image


@dataclasses.dataclass(frozen=True, kw_only=True)
class RowReader:
  """Reads single records, in any thread.

  Attributes:
    source: to be read.
    images: which draws nothing: a centre square that is not mirrored.
    texts: captions to tokens; None where no features are asked for.
  """

  source: Source
  images: ImageTransform
  texts: TextTransform | None

  def __call__(self, index: int) -> CacheRow:
    """The row of one record.

    Raises:
      PrepareError: the disk fails.
    """
    try:
      example = self.source[index]
    except BadRecord as error:
      record = CachedRecord(record_id=error.record_id, bad_record=_bad(error))
      return CacheRow(index=index, record=record)
    except OSError as error:
      raise PrepareError(
        f"{self.source.name}: record {index} cannot be read ({error}): run "
        "again to go on from here"
      ) from error
    return self._row(index, example)

  def _row(self, index: int, example: Example) -> CacheRow:
    record = CachedRecord(
      record_id=example.record_id,
      prompt=example.prompt,
      texts=example.texts,
      rewritten=example.rewritten,
    )
    pixels = None
    try:
      if example.image is not None:
        pixels = self._pixels(example)
    except BadRecord as error:
      record = dataclasses.replace(record, bad_image=_bad(error))
    if self.texts is None:
      return CacheRow(index=index, record=record, pixels=pixels)
    tokens, num_truncated, bad_texts = [], 0, []
    for text in (*example.texts, *example.rewritten):
      try:
        laid_out = self._laid_out(text, example.record_id)
      except BadRecord as error:
        bad_texts.append(error.reason)
        tokens.append(None)
      else:
        tokens.append(laid_out.tokens)
        num_truncated += num_lost_tokens(laid_out) > 0
    return CacheRow(
      index=index,
      record=record,
      pixels=pixels,
      tokens=tuple(tokens),
      num_truncated=num_truncated,
      bad_texts=tuple(bad_texts),
    )

  def _laid_out(self, text: str, record_id: str) -> LaidOutText:
    """As training does it with this text; raises BadRecord."""
    if not text.strip():
      raise BadRecord("empty_text", "the text is blank", record_id)
    return self.texts.lay_out("", text, record_id)

  def _pixels(self, example: Example) -> np.ndarray:
    return self.images(
      example.image,
      # The centre square is the same whatever is drawn.
      np.random.default_rng(0),
      record_id=example.record_id,
      may_flip=False,
    )


def read_chunks(
  reader: RowReader,
  indices: Sequence[int],
  *,
  size: int,
  pool: concurrent.futures.Executor,
) -> Iterator[list[CacheRow]]:
  """Rows in order, `size` at a time, while the next ones are being read."""
  waiting: collections.deque[list[concurrent.futures.Future]] = (
    collections.deque()
  )
  try:
    for start in range(0, len(indices), size):
      chunk = indices[start : start + size]
      waiting.append([pool.submit(reader, index) for index in chunk])
      if len(waiting) > 1:
        yield [future.result() for future in waiting.popleft()]
    while waiting:
      yield [future.result() for future in waiting.popleft()]
  finally:
    for future in itertools.chain.from_iterable(waiting):
      future.cancel()


def one_ahead(items: Iterable) -> Iterator:
  """The same items, each given when the next one was already made."""
  iterator = iter(items)
  for last in iterator:
    for item in iterator:
      yield last
      last = item
    yield last


def _bad(error: BadRecord) -> tuple[str, str]:
  return error.reason, error.detail
