"""Two endless streams of records in a fixed order, as batches.

A stream's state is one integer, the same on every process, whatever the number
of processes and threads. Each process reads the rows that its devices hold, so
a record lies at the same place of the global batch whatever the processes.
"""

import collections
import concurrent.futures
import dataclasses
import os
import weakref
from collections.abc import Callable, Mapping, Sequence

import grain
import numpy as np

from ddit_jax.batch import DualBatch, ImageToTextBatch, TextToImageBatch
from ddit_jax.data.bad_records import ReadLog
from ddit_jax.data.example import Source, has_images
from ddit_jax.data.mixture import Mixture
from ddit_jax.data.reader import ReadExamples, Record, Transform
from ddit_jax.data.sources.plain_text import PackedDocuments
from ddit_jax.data.text import caption_tokens, tokenize_and_pad
from ddit_jax.data.tokenizers import Tokenizer
from ddit_jax.data.transforms import (
  ImageToTextTransform,
  PackedRowTransform,
  TextOnlyTransform,
)

DEFAULT_BYTES = 2**28

# More would only take memory: slow records are evened out by far less.
_BATCHES_AHEAD = 2
_RECORDS_PER_THREAD = 4

# As Grain's ElasticIterator calls it, so that both continue each other.
_STATE = "global_next_index"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReadAhead:
  """How far threads may read ahead of the batches.

  Attributes:
    num_threads: that read and decode; 0 reads in the calling thread.
    num_records: read or being read, and not yet in a batch.
  """

  num_threads: int
  num_records: int


def plan_read_ahead(
  record_bytes: int,
  batch_rows: int,
  *,
  num_bytes: int = DEFAULT_BYTES,
  num_threads: int | None = None,
) -> ReadAhead:
  """Some batches or some records a thread, as far as `num_bytes` hold them.

  Args:
    record_bytes: size of one finished record.
    batch_rows: of a batch, on this process.
    num_bytes: of records that are read or being read; the batch that is
      being put together comes on top, and so do undecoded files and pictures,
      one a thread.
    num_threads: that read; None takes one a core.

  Raises:
    ValueError: not even one record fits, or no thread is given.
  """
  num_threads = usable_cores() if num_threads is None else num_threads
  if num_threads < 1:
    raise ValueError(f"reading takes at least one thread, got {num_threads}")
  num_fitting = num_bytes // record_bytes
  if num_fitting < 1:
    raise ValueError(
      f"reading ahead may take {num_bytes} bytes but one record has "
      f"{record_bytes}: allow more"
    )
  num_useful = _BATCHES_AHEAD * batch_rows + _RECORDS_PER_THREAD * num_threads
  return ReadAhead(
    num_threads=min(num_threads, num_fitting),
    num_records=min(num_fitting, num_useful),
  )


def usable_cores() -> int:
  """Cores that this process may run on."""
  if hasattr(os, "sched_getaffinity"):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


class ReadAheadBatches:
  """This process's rows of the global batches, in the dataset's order.

  Its state is one integer, the same on every process whatever their number,
  and that of Grain's `ElasticIterator`. Unlike there, a process may read any
  rows, those that its devices hold, so that a row lies at one place of the
  global batch whatever the processes; and threads share the records of one
  batch, so the first batch comes soon, and what is read ahead is counted in
  records and not in batches.

  After an error each `next` raises it again: nothing is skipped.
  """

  def __init__(
    self,
    dataset: Sequence[Record],
    *,
    batch_size: int,
    rows: Sequence[int],
    read_ahead: ReadAhead,
  ):
    """Args:
    dataset: records by their global position; endless.
    batch_size: global.
    rows: which of a batch's positions, 0 to batch_size - 1, this process
      reads, in their order.
    read_ahead: bounds.

    Raises:
      ValueError: no rows, or rows outside the batch.
    """
    self._rows = [int(row) for row in rows]
    if (
      not self._rows or not 0 <= min(self._rows) <= max(self._rows) < batch_size
    ):
      raise ValueError(
        f"a process reads some rows of a batch of {batch_size}, not "
        f"{self._rows}: choose a batch size that the processes divide"
      )
    self._dataset = dataset
    self._batch_size = batch_size
    self._read_ahead = read_ahead
    self._next_position = 0
    self._num_started, self._first_position = 0, 0
    self._failure: Exception | None = None
    self._pending: collections.deque[concurrent.futures.Future] = (
      collections.deque()
    )
    self._pool = None
    self._stop_pool = None

  def __next__(self) -> Record:
    """Arrays with this process's rows of the next batch."""
    if self._failure is not None:
      raise self._failure
    try:
      rows = [self._next_row() for _ in self._rows]
    except Exception as error:
      self._failure = error
      self._cancel()
      raise
    self._next_position += self._batch_size
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}

  def get_state(self) -> dict[str, int]:
    """How many records all processes together have given."""
    return {_STATE: self._next_position}

  def set_state(self, state: dict[str, int]) -> None:
    """Goes to a state that `get_state` gave.

    Raises:
      ValueError: it is none.
    """
    position = state.get(_STATE)
    if not isinstance(position, int) or position < 0:
      raise ValueError(
        f"a data position is {{{_STATE!r}: a whole number}}, got {state}: take "
        "the one that was saved with the checkpoint"
      )
    self._failure = None
    self._next_position = position
    self._cancel()

  def close(self) -> None:
    """Stops the threads and waits for them, a record's time at most."""
    self._cancel()
    if self._pool is not None:
      self._stop_pool.detach()
      self._pool.shutdown(wait=True, cancel_futures=True)
      self._pool = None

  def _next_row(self) -> Record:
    if not self._read_ahead.num_threads:
      return self._dataset[self._start_reading()]
    if self._pool is None:
      self._start_pool()
    while len(self._pending) < self._read_ahead.num_records:
      position = self._start_reading()
      self._pending.append(
        self._pool.submit(self._dataset.__getitem__, position)
      )
    return self._pending.popleft().result()

  def _start_reading(self) -> int:
    """The next of this process's positions; each is started once."""
    batch, row = divmod(self._num_started, len(self._rows))
    self._num_started += 1
    return self._first_position + batch * self._batch_size + self._rows[row]

  def _start_pool(self) -> None:
    self._pool = concurrent.futures.ThreadPoolExecutor(
      self._read_ahead.num_threads, thread_name_prefix="read-ahead"
    )
    # A forgotten iterator shall not read on.
    self._stop_pool = weakref.finalize(
      self, self._pool.shutdown, wait=False, cancel_futures=True
    )
    self._stop_pool.atexit = False

  def _cancel(self) -> None:
    """Forgets what was read ahead."""
    self._num_started = 0
    self._first_position = self._next_position
    while self._pending:
      self._pending.popleft().cancel()


Position = dict[str, int]
# Global batch size -> which of its rows this process reads.
RowsOf = Callable[[int], Sequence[int]]
# Threads cost more than they give while records are array rows.
_IN_CALLING_THREAD = ReadAhead(num_threads=0, num_records=1)


@dataclasses.dataclass(frozen=True)
class Stream:
  """One source in memory, shuffled anew each epoch and repeated for ever.

  Attributes:
    source: records with `__len__` and `__getitem__`.
    batch_size: global batch size.
    seed: of the order.
  """

  source: object
  batch_size: int
  seed: int

  def iterator(self, rows_of: RowsOf = range) -> ReadAheadBatches:
    """This process's rows of the global batches.

    Raises:
      ValueError: no rows, or no records.
    """
    if not len(self.source):
      raise ValueError("a stream's source has no records")
    return ReadAheadBatches(
      self._shuffled(self.source),
      batch_size=self.batch_size,
      rows=rows_of(self.batch_size),
      read_ahead=_IN_CALLING_THREAD,
    )

  def record_ids(self, positions: range) -> list[str]:
    """Which records lie there, for logs."""
    order = self._shuffled(range(len(self.source)))
    return [f"record {order[position]}" for position in positions]

  def _shuffled(self, source) -> grain.MapDataset:
    dataset = grain.MapDataset.source(source)
    return dataset.seed(self.seed).shuffle().repeat()


@dataclasses.dataclass(frozen=True, kw_only=True)
class MixtureStream:
  """Sources on disk, in a mixture's order, read ahead by threads.

  Attributes:
    mixture: which record lies at which position.
    read_ahead_bytes: most that records read ahead may take.
    num_threads: that read and decode; None takes one a core, 0 reads in the
      calling thread, which is best for records in memory.
  """

  mixture: Mixture
  read_ahead_bytes: int = DEFAULT_BYTES
  num_threads: int | None = None

  @property
  def batch_size(self) -> int:
    """Global batch size."""
    return self.mixture.batch_size

  def record_ids(self, positions: range) -> list[str]:
    """Which records lie there, for logs."""
    return [self.mixture.record_id(position) for position in positions]

  def iterator(self, rows_of: RowsOf = range) -> ReadAheadBatches:
    """This process's rows of the global batches.

    Raises:
      ValueError: no rows, or not even one record may be read ahead.
    """
    rows, plan = rows_of(self.batch_size), _IN_CALLING_THREAD
    if self.num_threads != 0:
      plan = plan_read_ahead(
        self.mixture.record_bytes,
        len(rows),
        num_bytes=self.read_ahead_bytes,
        num_threads=self.num_threads,
      )
    return ReadAheadBatches(
      self.mixture,
      batch_size=self.batch_size,
      rows=rows,
      read_ahead=plan,
    )


def dual_batch(
  text_to_image: Record | None = None, image_to_text: Record | None = None
) -> DualBatch:
  """A batch of both streams' rows, name to array; None is a stream off.

  Texts may come without "images": then they are texts alone.
  """
  no_images = {"images": None}
  return DualBatch(
    text_to_image=None
    if text_to_image is None
    else TextToImageBatch(**text_to_image),
    image_to_text=None
    if image_to_text is None
    else ImageToTextBatch(**no_images | image_to_text),
  )


class DualStream:
  """Host batches of both streams, and the position behind each."""

  def __init__(
    self,
    text_to_image: Stream | MixtureStream | None = None,
    image_to_text: Stream | MixtureStream | None = None,
    *,
    rows_of: RowsOf = range,
  ):
    """Streams that are None are off, and give None in each batch.

    Args:
      text_to_image: of the image loss.
      image_to_text: of the text loss.
      rows_of: global batch size -> which rows this process reads; all of them
        by default. See `device_feed.rows_of_process`.

    Raises:
      ValueError: both are off, or what their `iterator` raises.
    """
    streams = {"text_to_image": text_to_image, "image_to_text": image_to_text}
    self._streams = {k: v for k, v in streams.items() if v is not None}
    self._iterators = {
      name: stream.iterator(rows_of) for name, stream in self._streams.items()
    }
    if not self._iterators:
      raise ValueError("both streams are off: give one of them a batch_size")

  def __next__(self) -> tuple[DualBatch, dict[str, Position]]:
    """(this process's rows of the next batches, position after them)."""
    rows = {name: next(it) for name, it in self._iterators.items()}
    return dual_batch(**rows), self.position()

  def position(self) -> dict[str, Position]:
    """One integer a stream that is on: how many records it has given."""
    return {
      name: dict(iterator.get_state())
      for name, iterator in self._iterators.items()
    }

  def record_ids(self, position: dict[str, Position]) -> dict[str, list[str]]:
    """Which records the global batch before a position holds, by stream."""
    found = {}
    for name, state in position.items():
      (end,) = state.values()
      stream = self._streams[name]
      found[name] = stream.record_ids(range(end - stream.batch_size, end))
    return found

  def seek(self, position: dict[str, Position]) -> None:
    """Goes to a position that `position` or `__next__` gave.

    Raises:
      ValueError: it names other streams.
    """
    if set(position) != set(self._iterators):
      raise ValueError(
        f"the data position is of {sorted(position)}, the streams are "
        f"{sorted(self._iterators)}: switch on what was on when it was saved"
      )
    for name, iterator in self._iterators.items():
      iterator.set_state(position[name])

  def close(self) -> None:
    """Stops the threads that read ahead."""
    for iterator in self._iterators.values():
      iterator.close()


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
  """Records {"images", "tokens", "loss_mask"} of the text loss.

  Texts that do not fit are cut and counted in `num_truncated`.
  """
  cache = {}
  for pair in zip(prompts, texts, strict=True):
    if pair not in cache:
      cache[pair] = tokenize_and_pad(tokenizer, *pair, length)
  rows = [cache[pair] for pair in zip(prompts, texts, strict=True)]
  return ArrayRecords(
    {
      "images": images,
      "tokens": np.stack([row.tokens for row in rows]),
      "loss_mask": np.stack([row.loss_mask for row in rows]),
    },
    num_truncated=sum(row.num_truncated > 1 for row in rows),
  )


def source_readers(
  sources: Mapping[str, Source],
  transform: Transform,
  *,
  seed: int,
  log: ReadLog,
) -> dict[str, ReadExamples]:
  """Records of each source, all of one form.

  Where no source of the text stream has images, its records have none either,
  and no black image is carried about.

  Args:
    sources: of one stream's mixture, by name.
    transform: of that stream's examples.
    seed: of the draws, 0 or more.
    log: counts what was read.

  Raises:
    ValueError: a source is empty, or its texts fill no row.
  """
  is_text_alone = not any(map(has_images, sources.values()))
  if is_text_alone and isinstance(transform, ImageToTextTransform):
    transform = TextOnlyTransform(texts=transform.texts)
  return {
    name: ReadExamples(*_reading(source, transform), seed=seed, log=log)
    for name, source in sorted(sources.items())
  }


def check_have_images(sources: Mapping[str, Source]) -> None:
  """Raises ValueError for a source of texts alone in the image stream."""
  for name, source in sources.items():
    if not has_images(source):
      raise ValueError(
        f"data.text_to_image.mixture names {name!r}, which holds texts alone: "
        "name it in data.image_to_text.mixture"
      )


def _reading(source: Source, transform: Transform):
  """(what to read, how to make records of it)."""
  if not isinstance(source, PackedDocuments):
    return source, transform
  texts = transform.texts
  no_image = {}
  if isinstance(transform, ImageToTextTransform):
    no_image = transform.no_image()
  return (
    source.rows(texts.tokenizer, texts.length),
    PackedRowTransform(length=texts.length, no_image=no_image),
  )
