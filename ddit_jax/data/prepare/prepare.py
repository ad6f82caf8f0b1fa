"""Copies records of images and texts from any source into shards."""

import collections
import dataclasses
import logging
import math
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from ddit_jax.data import example as record_format
from ddit_jax.data.example import BadRecord, Example, Source
from ddit_jax.data.image import reencoded
from ddit_jax.data.image_header import Filters, HeaderError, image_size_of_bytes
from ddit_jax.data.prepare.shard_writer import (
  Counts,
  ReportProgress,
  ShardWriter,
  read_example,
)
from ddit_jax.data.prepare.shards import (
  FolderFormat,
  Manifest,
  ShardFile,
  num_parts_for,
  sampled_mean,
  shards_bytes,
)
from ddit_jax.data.prepare.tally import BadEntry, RecordProgress
from ddit_jax.files import check_free_space, local_path

EXAMPLES = FolderFormat(
  name="ddit_jax examples in ArrayRecord",
  version=record_format.VERSION,
  command="ddit prepare",
)
_MAX_THREADS = 16

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrepareOptions:
  """All options that determine the written bytes.

  Attributes:
    num_shards: files; None chooses one for every 8192 records.
    short_side: larger images are shrunk to it, in pixels; None keeps the
      image files as they are, undecoded.
    jpeg_quality: of shrunk images, 1..100.
    max_ratio: images whose sides have a larger ratio are skipped; infinity
      keeps all.
    min_short_side: smaller images are skipped, in pixels; 0 keeps all.
  """

  num_shards: int | None = None
  short_side: int | None = None
  jpeg_quality: int = 95
  max_ratio: float = math.inf
  min_short_side: int = 0

  def __post_init__(self):
    if self.num_shards is not None and not 1 <= self.num_shards <= 99_999:
      raise ValueError(
        f"shards must be between 1 and 99999, got {self.num_shards}"
      )
    if self.short_side is not None and self.short_side < 1:
      raise ValueError(f"short_side must be positive, got {self.short_side}")
    if not 1 <= self.jpeg_quality <= 100:
      raise ValueError(
        f"jpeg_quality must be between 1 and 100, got {self.jpeg_quality}"
      )
    self.filters()

  def filters(self) -> Filters:
    """The filters of images.

    Raises:
      ValueError: a value out of range.
    """
    return Filters(
      max_ratio=self.max_ratio,
      min_short_side=self.min_short_side,
      drop_empty_captions=False,
    )

  def shards_for(self, num_records: int) -> int:
    """Number of files for a number of records."""
    if self.num_shards is not None:
      return self.num_shards
    return num_parts_for(num_records, 0)

  def as_json(self, num_records: int) -> dict[str, Any]:
    """Options for dataset.json; equal if the written bytes are."""
    return {
      "num_shards": self.shards_for(num_records),
      "short_side": self.short_side,
      "jpeg_quality": self.jpeg_quality if self.short_side else None,
      "max_ratio": self.max_ratio if math.isfinite(self.max_ratio) else None,
      "min_short_side": self.min_short_side,
    }

  def refused(self, example: Example) -> str | None:
    """Name of the filter that skips an example, or None.

    Raises:
      BadRecord: the size is needed, and the image's header has none.
    """
    filters = self.filters()
    if example.image is None or not filters.needs_size:
      return None
    try:
      size = image_size_of_bytes(example.image)
    except HeaderError as error:
      raise BadRecord(error.reason, str(error), example.record_id) from error
    return filters.refused_size(size)

  def record(self, example: Example) -> bytes:
    """The bytes to write.

    Raises:
      BadRecord: the image or a text cannot be used.
    """
    if self.short_side is not None and example.image is not None:
      image = reencoded(
        example.image,
        example.record_id,
        short_side=self.short_side,
        jpeg_quality=self.jpeg_quality,
      )
      example = dataclasses.replace(example, image=image)
    return record_format.encode(example)


def prepare(
  source: Source,
  out: str | os.PathLike,
  options: PrepareOptions,
  *,
  threads: int | None = None,
  max_bad_rate: float = 0.01,
  progress: RecordProgress | None = None,
) -> Manifest:
  """Writes all records of a source, or only the missing ones.

  Args:
    source: read by several threads at once.
    out: a new or empty folder, or one that this source and these options
      began or finished before.
    options: how records are processed.
    threads: threads, each writing its own shard; None uses all cores, at
      most MAX_THREADS.
    max_bad_rate: fraction of the source's records that may be bad. They are
      skipped, counted by reason and listed in bad_records.jsonl.
    progress: called after every record, by one thread at a time.

  Returns:
    The contents of dataset.json.

  Raises:
    InputError: nothing to write, too many bad records, a full disk,
      a folder with other contents.
    OSError: the folder cannot be written.
  """
  copier = _Copier(source, options, local_path(out))
  return ShardWriter(
    folder=copier.folder,
    fmt=EXAMPLES,
    source=source,
    options=options.as_json(len(source)),
    write_part=copier.write_part,
    num_parts=options.shards_for(len(source)),
    threads=min(_MAX_THREADS, os.cpu_count() or 1)
    if threads is None
    else threads,
    max_bad_rate=max_bad_rate,
    progress=progress,
    check_room=copier.check_room,
  ).write()


@dataclasses.dataclass(frozen=True)
class _Copier:
  """Copies single records of a source."""

  source: Source
  options: PrepareOptions
  folder: pathlib.Path

  def check_room(self, parts: Sequence[range]) -> None:
    """Logs the size of all parts; InputError if the disk is too small."""
    needed = shards_bytes(
      sum(map(len, parts)),
      num_shards=len(parts),
      bytes_per_record=sampled_mean(len(self.source), self._num_bytes),
    )
    remedy = "choose another disk, or shrink the images with short_side"
    facts = check_free_space(self.folder, needed, remedy=remedy)
    _log.info("writing %s: about %s", self.folder, facts)

  def write_part(
    self, indices: range, files: Sequence[ShardFile], report: ReportProgress
  ) -> Counts:
    """A `WritePart`."""
    removed: collections.Counter[str] = collections.Counter()
    for index in indices:
      bad = []
      try:
        example = read_example(self.source, index)
        if refused := self.options.refused(example):
          removed[refused] += 1
        else:
          files[0].write(self.options.record(example))
      except BadRecord as error:
        bad = [BadEntry(index, error.record_id, error.reason, error.detail)]
      report(1, bad)
    return removed, {}

  def _num_bytes(self, index: int) -> int:
    """Size of a record; 0 if it is skipped."""
    try:
      example = read_example(self.source, index)
      is_kept = self.options.refused(example) is None
      return len(self.options.record(example)) if is_kept else 0
    # Writing it reports it.
    except BadRecord:
      return 0
