"""Writes one source's cache: by several processes, resumable, exact.

A part of a cache is a contiguous range of the source, with a shard of latents
and one of features. Process p of P writes the parts p, p + P, ...; parts and
their bytes do not depend on P, nor on how often a run was killed.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import itertools
import json
import math
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from ddit_jax.data.bad_records import (
  Progress,
  RecordTally,
  TooManyBadRecords_of_record_tally,
)
from ddit_jax.data.example import BadRecord, Example, Source
from ddit_jax.data.image import ImageTransform
from ddit_jax.data.prepare import cache_format
from ddit_jax.data.prepare.cache_format import (
  ArrayLayout,
  CachedRecord,
  CacheManifest,
  CachePlan,
  FinishedPart,
  check_files,
  read_manifest,
  write_manifest,
)
from ddit_jax.data.prepare.prepare import record_ranges
from ddit_jax.data.prepare.shards import (
  PrepareError,
  ShardWriter,
  UnfinishedFolder,
  is_finished,
  require_equal_plans,
  shards_bytes,
)
from ddit_jax.data.text import TextTransform, TokenizedText
from ddit_jax.data.transforms import num_lost_tokens
from ddit_jax.files import check_free_space


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
        tokenized = self._laid_out(text, example.record_id)
      except BadRecord as error:
        bad_texts.append(error.reason)
        tokens.append(None)
      else:
        tokens.append(tokenized.tokens)
        num_truncated += num_lost_tokens(tokenized) > 0
    return CacheRow(
      index=index,
      record=record,
      pixels=pixels,
      tokens=tuple(tokens),
      num_truncated=num_truncated,
      bad_texts=tuple(bad_texts),
    )

  def _laid_out(self, text: str, record_id: str) -> TokenizedText:
    """As training does it with this text; raises BadRecord."""
    if not text.strip():
      raise BadRecord("empty_text", "the text is blank", record_id)
    return self.texts.tokenize_and_pad("", text, record_id)

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


_SAMPLED_RECORDS = 32
# A part that a kill interrupts is written again.
_BYTES_PER_PART = 2**31
_RECORDS_PER_PART = 8192


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordSize:
  """Of one record, from a few that are spread over the source.

  Attributes:
    latents: bytes of its moments.
    texts: bytes of its texts, about.
    num_features: texts with features, about; 0 without features.
    feature: bytes of one text's features.
  """

  latents: int
  texts: float
  num_features: float
  feature: int

  @property
  def num_bytes(self) -> float:
    """All of it, about."""
    return self.latents + self.texts + self.num_features * self.feature

  def num_parts(self, num_records: int) -> int:
    """How many parts a cache is best cut into."""
    by_size = math.ceil(num_records * self.num_bytes / _BYTES_PER_PART)
    return max(by_size, math.ceil(num_records / _RECORDS_PER_PART))

  def total(self, num_records: int, num_parts: int) -> int:
    """Bytes of some parts that hold this many records."""
    rows = 1 + self.num_features
    num_shards = num_parts * (2 if self.num_features else 1)
    return shards_bytes(
      math.ceil(num_records * rows),
      num_shards=num_shards,
      bytes_per_record=self.num_bytes / rows,
    )

  def __str__(self) -> str:
    text = f"{self.latents:,} bytes of latents"
    if self.num_features:
      text += (
        f" and about {self.num_features * self.feature:,.0f} of features "
        f"({self.num_features:.3g} texts of {self.feature:,})"
      )
    return text


def record_size(
  source: Source, moments: ArrayLayout, feature: ArrayLayout | None
) -> RecordSize:
  """Reads some records, undecoded; bad ones count as empty."""
  step = max(1, len(source) // _SAMPLED_RECORDS)
  num_read = num_bytes = num_texts = 0
  for index in range(0, len(source), step):
    num_read += 1
    try:
      example = source[index]
    except BadRecord:
      continue
    texts = [*example.texts, *example.rewritten]
    num_bytes += len(json.dumps([example.prompt, example.record_id, texts]))
    num_texts += len(texts)
  return RecordSize(
    latents=moments.num_bytes,
    texts=num_bytes / num_read,
    num_features=num_texts / num_read if feature else 0.0,
    feature=feature.num_bytes if feature else 0,
  )


def require_room(folder: pathlib.Path, needed: int) -> str:
  """ "52 GB to write, 800 GB are free in FOLDER"; InputError if too few are."""
  facts = check_free_space(
    folder,
    needed,
    remedy="choose another disk, a smaller image_size or text_length, or "
    "--cache=latents without T5's features",
  )
  return f"{facts} in {folder}"


# Rows to as many rows, or more that are cut off; may return before it is done.
Encode = Callable[[np.ndarray], Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RowEncoders:
  """What makes arrays of rows.

  Attributes:
    images: uint8 [rows, size, size, 3] to moments.
    texts: int32 [rows, length] to features; None without features.
    num_rows: most rows in one call.
  """

  images: Encode
  texts: Encode | None
  num_rows: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Encoded:
  """Rows, and batches of their arrays that may still be computed."""

  rows: list[CacheRow]
  moments: list[tuple[Any, int]]
  features: list[tuple[Any, int]]


class PartWriter:
  """Writes the shards of one range of records."""

  def __init__(
    self,
    plan: CachePlan,
    folder: UnfinishedFolder,
    names: list[str],
    tally: RecordTally,
  ):
    """Args:
    plan: of the whole cache.
    folder: where it is written.
    names: of the shards: latents, and features if there are any.
    tally: of all parts of this process.
    """
    self._plan, self._folder, self._tally = plan, folder, tally
    self._paths = [folder.partial_path(name) for name in names]
    self._bad: list[dict[str, Any]] = []
    self._bad_texts: collections.Counter[str] = collections.Counter()
    self._num_texts = self._num_truncated = 0

  def run(
    self,
    indices: range,
    reader: RowReader,
    encoders: RowEncoders,
    pool: concurrent.futures.Executor,
  ) -> None:
    """Reads, encodes and writes records; all three at once.

    Raises:
      PrepareError: the disk fails.
      TooManyBadRecords: see `RecordTally`.
    """
    chunks = read_chunks(reader, indices, size=encoders.num_rows, pool=pool)
    encoded_chunks = (_encoded(rows, encoders) for rows in chunks)
    with contextlib.ExitStack() as stack:
      shards = [stack.enter_context(ShardWriter(p)) for p in self._paths]
      for encoded in one_ahead(encoded_chunks):
        self._write(encoded, shards)
    counts = [len(indices), self._num_texts][: len(self._paths)]
    finished = FinishedPart(
      shards=tuple(map(cache_format.written_shard, self._paths, counts)),
      bad_records=tuple(self._bad),
      bad_texts=dict(sorted(self._bad_texts.items())),
      num_texts=self._num_texts,
      num_truncated=self._num_truncated,
    )
    cache_format.finish_part(self._folder, finished)

  def _write(self, encoded: _Encoded, shards: list[ShardWriter]) -> None:
    plan, bad = self._plan, []
    moments, features = map(_each, (encoded.moments, encoded.features))
    for row in encoded.rows:
      entries = []
      for tokens in row.tokens:
        entries.append(None if tokens is None else self._num_texts)
        if tokens is not None:
          shards[1].write(plan.feature.pack(next(features)))
          self._num_texts += 1
      packed = None
      if row.pixels is not None:
        packed = plan.moments.pack(next(moments))
      record = dataclasses.replace(
        row.record, moments=packed, feature_entries=tuple(entries)
      )
      shards[0].write(cache_format.encode(record))
      self._bad_texts.update(row.bad_texts)
      self._num_truncated += row.num_truncated
      if row.bad is not None:
        bad.append(_entry(row))
    self._bad += bad
    self._tally.add(len(encoded.rows), bad)


def _encoded(rows: list[CacheRow], encoders: RowEncoders) -> _Encoded:
  pixels = [row.pixels for row in rows if row.pixels is not None]
  tokens = [t for row in rows for t in row.tokens if t is not None]
  return _Encoded(
    rows=rows,
    moments=_batches(encoders.images, pixels, encoders.num_rows),
    features=_batches(encoders.texts, tokens, encoders.num_rows),
  )


def _batches(
  encode: Encode, rows: list[np.ndarray], size: int
) -> list[tuple[Any, int]]:
  """(arrays being computed, how many of them count) of all rows."""
  chunks = [rows[i : i + size] for i in range(0, len(rows), size)]
  return [(encode(np.stack(chunk)), len(chunk)) for chunk in chunks]


def _each(batches: list[tuple[Any, int]]) -> Iterator[np.ndarray]:
  for arrays, count in batches:
    yield from np.asarray(arrays)[:count]


def _entry(row: CacheRow) -> dict[str, Any]:
  reason, detail = row.bad
  return {
    "index": row.index,
    "record_id": row.record.record_id,
    "reason": reason,
    "detail": detail,
  }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Processes:
  """Who else writes the same cache.

  Attributes:
    index: of this process.
    count: of all.
    barrier: returns when all processes called it with the same name.
  """

  index: int = 0
  count: int = 1
  barrier: Callable[[str], None] = lambda name: None


@dataclasses.dataclass(frozen=True, kw_only=True)
class CacheWriter:
  """Writes the cache of one source.

  Attributes:
    folder: a new or empty folder, or one that this plan began or finished.
    plan: what is written.
    reader: of the source.
    encoders: make arrays.
    processes: this one and the others.
    max_bad_rate: share of the source's records that may be bad. They are
      marked, counted by reason and listed in bad_records.jsonl.
    threads: that read; None takes one a core.
    progress: called after every chunk of rows.
  """

  folder: pathlib.Path
  plan: CachePlan
  reader: RowReader
  encoders: RowEncoders
  processes: Processes = Processes()
  max_bad_rate: float = 0.01
  threads: int | None = None
  progress: Progress | None = None

  def write(self) -> CacheManifest:
    """Writes what is missing, and says what the cache holds.

    Raises:
      PrepareError: another plan or process, too many bad records, a full disk.
      OSError: the folder cannot be written.
    """
    unfinished = UnfinishedFolder(self.folder)
    if is_finished(self.folder):
      manifest = read_manifest(self.folder)
      begun, plan = manifest.plan.flat(), self.plan.flat()
      require_equal_plans(self.folder, begun, plan)
      check_files(self.folder, manifest)
    else:
      with self._locked(unfinished):
        self._write_parts(unfinished)
        manifest = self._finish(unfinished)
    if not self.processes.index:
      unfinished.clear()
    return manifest

  def unfinished_parts(self) -> list[range]:
    """Ranges of records that no process has written yet."""
    folder = UnfinishedFolder(self.folder)
    if is_finished(self.folder):
      return []
    return [
      indices
      for part, indices in enumerate(self._ranges())
      if cache_format.finished_part(folder, self._names(part)) is None
    ]

  @contextlib.contextmanager
  def _locked(self, folder: UnfinishedFolder) -> Iterator[None]:
    """The first process holds the lock for all."""
    plan = self.plan.flat()
    is_first = not self.processes.index
    with folder.locked(plan) if is_first else contextlib.nullcontext():
      self.processes.barrier("locked")
      yield

  def _ranges(self) -> list[range]:
    return record_ranges(self.plan.latents.num_records, self.plan.num_shards)

  def _names(self, part: int) -> list[str]:
    has_features = self.plan.features is not None
    return cache_format.part_names(part, self.plan.num_shards, has_features)

  def _write_parts(self, folder: UnfinishedFolder) -> None:
    ranges = self._ranges()
    mine = range(self.processes.index, len(ranges), self.processes.count)
    tally = RecordTally(
      sum(len(ranges[part]) for part in mine),
      max_bad_rate=self.max_bad_rate,
      progress=self.progress,
    )
    try:
      with concurrent.futures.ThreadPoolExecutor(
        self.threads or os.cpu_count()
      ) as pool:
        for part in mine:
          finished = cache_format.finished_part(folder, self._names(part))
          if finished is None:
            names = self._names(part)
            part_writer = PartWriter(self.plan, folder, names, tally)
            part_writer.run(ranges[part], self.reader, self.encoders, pool)
          else:
            tally.add(len(ranges[part]), finished.bad_records)
    except TooManyBadRecords_of_record_tally as error:
      cache_format.list_bad_records(folder, tally.bad_records())
      raise PrepareError(
        f"{self.reader.source.name}: {error}: look at "
        f"{self.folder / cache_format.BAD_RECORDS_NAME}, mend the source, or "
        "allow more with max_bad_rate"
      ) from error

  def _finish(self, folder: UnfinishedFolder) -> CacheManifest:
    """What all processes wrote; the first one writes it down."""
    self.processes.barrier("written")
    if not self.processes.index:
      names = [self._names(part) for part in range(self.plan.num_shards)]
      parts = [cache_format.finished_part(folder, some) for some in names]
      cache_format.list_bad_records(
        folder, [entry for part in parts for entry in part.bad_records]
      )
      write_manifest(self.folder, _manifest(self.plan, parts))
    self.processes.barrier("finished")
    return read_manifest(self.folder)


def _manifest(plan: CachePlan, parts: list[FinishedPart]) -> CacheManifest:
  bad_texts: collections.Counter[str] = collections.Counter()
  reasons: collections.Counter[str] = collections.Counter()
  for part in parts:
    bad_texts.update(part.bad_texts)
    reasons.update(entry["reason"] for entry in part.bad_records)
  return CacheManifest(
    plan=plan,
    latents=tuple(part.shards[0] for part in parts),
    features=tuple(shard for part in parts for shard in part.shards[1:]),
    bad_records=dict(reasons),
    bad_texts=dict(bad_texts),
    num_texts=sum(part.num_texts for part in parts),
    num_truncated=sum(part.num_truncated for part in parts),
  )
