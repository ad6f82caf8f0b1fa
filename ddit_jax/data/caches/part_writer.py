"""Writes one part of a cache: a range of records, and its two shards."""

import collections
import concurrent.futures
import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ddit_jax.data.caches import cache_folder, cache_format
from ddit_jax.data.caches.cache_folder import FinishedPart
from ddit_jax.data.caches.cache_manifest import CachePlan
from ddit_jax.data.caches.cache_rows import (
  CacheRow,
  RowReader,
  one_ahead,
  read_chunks,
)
from ddit_jax.data.record_tally import RecordTally
from ddit_jax.data.shard_writer import ShardWriter
from ddit_jax.data.unfinished_folder import UnfinishedFolder

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
      shards=tuple(map(cache_folder.written_shard, self._paths, counts)),
      bad_records=tuple(self._bad),
      bad_texts=dict(sorted(self._bad_texts.items())),
      num_texts=self._num_texts,
      num_truncated=self._num_truncated,
    )
    cache_folder.finish_part(self._folder, finished)

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
