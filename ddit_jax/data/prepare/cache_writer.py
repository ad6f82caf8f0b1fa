"""Encodes a source for a cache; reads, encodes and writes in parallel."""

import collections
import concurrent.futures
import dataclasses
import itertools
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int32, UInt8

from ddit_jax.data.example import BadRecord, Example, Source
from ddit_jax.data.image import ImageTransform
from ddit_jax.data.prepare.cache_format import (
  CACHE,
  ArrayFormat,
  CachedRecord,
  encode_cached,
)
from ddit_jax.data.prepare.shard_writer import (
  Counts,
  ReportProgress,
  ShardWriter,
  read_example,
)
from ddit_jax.data.prepare.shards import BYTES_PER_RECORD, ShardFile
from ddit_jax.data.prepare.tally import BadEntry
from ddit_jax.data.text import TextTransform
from ddit_jax.data.transforms import num_lost_tokens


@dataclasses.dataclass(frozen=True, kw_only=True)
class _CacheRow:
  """One record to be written to a cache.

  Attributes:
    index: of the record in its source.
    record: all but moments and feature entries.
    pixels: uint8 [size, size, 3]; None without an image that can be used.
    tokens: of each own, then each rewritten text, int32 [length]; None for a
      text that cannot be used. () if no features are requested.
    num_truncated: texts that are longer than `length`.
    bad_texts: reason of each text that cannot be used.
  """

  index: int
  record: CachedRecord
  pixels: UInt8[np.ndarray, "size size 3"] | None = None
  tokens: tuple[Int32[np.ndarray, " length"] | None, ...] = ()
  num_truncated: int = 0
  bad_texts: tuple[str, ...] = ()

  @property
  def bad(self) -> tuple[str, str] | None:
    """(reason, detail) if it is a bad record."""
    return self.record.bad_record or self.record.bad_image


@dataclasses.dataclass(frozen=True, kw_only=True)
class RowReader:
  """Reads single records; thread-safe.

  Attributes:
    source: the source to read.
    images: deterministic: a centre square that is not mirrored.
    texts: captions to tokens; None where no features are requested.
  """

  source: Source
  images: ImageTransform
  texts: TextTransform | None

  def __call__(self, index: int) -> _CacheRow:
    """The row of one record.

    Raises:
      InputError: a read error of the disk.
    """
    try:
      example = read_example(self.source, index)
    except BadRecord as error:
      reason = error.reason, error.detail
      record = CachedRecord(record_id=error.record_id, bad_record=reason)
      return _CacheRow(index=index, record=record)
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
      reason = error.reason, error.detail
      record = dataclasses.replace(record, bad_image=reason)
    return self._with_tokens(
      _CacheRow(index=index, record=record, pixels=pixels)
    )

  def _with_tokens(self, row: _CacheRow) -> _CacheRow:
    """Tokens of each text, as in training."""
    if self.texts is None:
      return row
    record_id, tokens, num_truncated, bad = row.record.record_id, [], 0, []
    for text in (*row.record.texts, *row.record.rewritten):
      try:
        if not text.strip():
          raise BadRecord("empty_text", "the text is blank", record_id)
        tokenized = self.texts.tokenize_and_pad("", text, record_id)
      except BadRecord as error:
        bad.append(error.reason)
        tokens.append(None)
      else:
        tokens.append(tokenized.tokens)
        num_truncated += num_lost_tokens(tokenized) > 0
    return dataclasses.replace(
      row,
      tokens=tuple(tokens),
      num_truncated=num_truncated,
      bad_texts=tuple(bad),
    )

  def _pixels(self, example: Example) -> UInt8[np.ndarray, "size size 3"]:
    return self.images(
      example.image,
      # The centre crop does not depend on random draws.
      np.random.default_rng(0),
      record_id=example.record_id,
      may_flip=False,
    )


# Rows to at least as many rows (the excess is dropped); may be asynchronous.
_Encode = Callable[[np.ndarray], Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RowEncoders:
  """Functions that encode rows.

  Attributes:
    images: uint8 [rows, size, size, 3] to moments.
    texts: int32 [rows, length] to features; None without features.
    num_rows: most rows in one call.
  """

  images: _Encode
  texts: _Encode | None
  num_rows: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class CacheEncoder:
  """Writes the parts of a cache.

  Attributes:
    reader: of the source.
    encoders: encode rows.
    moments: of one image.
    feature: of one text's features; None without features.
    threads: reading threads; None uses one per core.
  """

  reader: RowReader
  encoders: RowEncoders
  moments: ArrayFormat
  feature: ArrayFormat | None
  threads: int | None = None

  def writer(
    self,
    folder: pathlib.Path,
    *,
    latents: Mapping[str, Any],
    features: Mapping[str, Any] | None,
    num_parts: int,
    rows_per_device: int,
    **more: Any,
  ) -> ShardWriter:
    """The writer of the source's cache.

    Args:
      folder: see `ShardWriter`.
      latents: options that determine the moments, JSON values by name.
      features: the same for the features; None without features.
      num_parts: files of each kind.
      rows_per_device: images or texts that one device encodes at once, on
        which the last bits may depend.
      more: of `ShardWriter`'s attributes.
    """
    has_features = self.feature is not None
    return ShardWriter(
      folder=folder,
      fmt=CACHE,
      source=self.reader.source,
      options={
        "latents": dict(latents),
        "features": dict(features) if has_features else None,
        "moments": self.moments.as_json(),
        "feature": self.feature.as_json() if has_features else None,
        "num_shards": num_parts,
        "rows_per_device": rows_per_device,
      },
      write_part=self.write_part,
      num_parts=num_parts,
      kinds=("latents", "features") if has_features else ("latents",),
      **more,
    )

  def write_part(
    self, indices: range, files: Sequence[ShardFile], report: ReportProgress
  ) -> Counts:
    """A `WritePart`; counts texts that are cut or cannot be used."""
    counts: collections.Counter[str] = collections.Counter()
    threads = self.threads or os.cpu_count()
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
      chunks = _read_chunks(self.reader, indices, self.encoders.num_rows, pool)
      # While one chunk is written, the next one is computed.
      for rows, moments, features in _one_ahead(map(self._encoded, chunks)):
        bad = []
        for row in rows:
          self._write_row(row, moments, features, files)
          counts.update(f"bad_texts/{reason}" for reason in row.bad_texts)
          counts["truncated_texts"] += row.num_truncated
          if row.bad is not None:
            bad.append(BadEntry(row.index, row.record.record_id, *row.bad))
        report(len(rows), bad)
    return {}, counts

  def record_bytes(self, index: int) -> float:
    """Approximate size of a record and its features, without decoding."""
    size = self.moments.num_bytes
    try:
      example = read_example(self.reader.source, index)
    except BadRecord:
      return size
    texts = [*example.texts, *example.rewritten]
    size += len(json.dumps([example.prompt, example.record_id, texts]))
    if self.feature is not None:
      size += len(texts) * (self.feature.num_bytes + BYTES_PER_RECORD)
    return size

  def _encoded(
    self, rows: list[_CacheRow]
  ) -> tuple[list[_CacheRow], Iterator[np.ndarray], Iterator[np.ndarray]]:
    """Rows, and their moments and features, which may still be computed."""
    pixels = [row.pixels for row in rows if row.pixels is not None]
    tokens = [t for row in rows for t in row.tokens if t is not None]
    moments = self._batches(self.encoders.images, pixels)
    features = self._batches(self.encoders.texts, tokens)
    return rows, _each(moments), _each(features)

  def _batches(
    self, encode_rows: _Encode, rows: list[np.ndarray]
  ) -> list[tuple[Any, int]]:
    """(arrays being computed, how many of them count) of all rows."""
    size = self.encoders.num_rows
    chunks = [rows[i : i + size] for i in range(0, len(rows), size)]
    return [(encode_rows(np.stack(chunk)), len(chunk)) for chunk in chunks]

  def _write_row(
    self,
    row: _CacheRow,
    moments: Iterator[np.ndarray],
    features: Iterator[np.ndarray],
    files: Sequence[ShardFile],
  ) -> None:
    entries: list[int | None] = []
    for tokens in row.tokens:
      entries.append(None if tokens is None else files[1].num_records)
      if tokens is not None:
        files[1].write(self.feature.pack(next(features)))
    packed = None
    if row.pixels is not None:
      packed = self.moments.pack(next(moments))
    record = dataclasses.replace(
      row.record, moments=packed, feature_entries=tuple(entries)
    )
    files[0].write(encode_cached(record))


def _read_chunks(
  reader: RowReader,
  indices: Sequence[int],
  size: int,
  pool: concurrent.futures.Executor,
) -> Iterator[list[_CacheRow]]:
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


def _one_ahead(items: Iterable) -> Iterator:
  """The same items, each yielded after the next one has been computed."""
  iterator = iter(items)
  for last in iterator:
    for item in iterator:
      yield last
      last = item
    yield last


def _each(batches: list[tuple[Any, int]]) -> Iterator[np.ndarray]:
  for arrays, count in batches:
    yield from np.asarray(arrays)[:count]
