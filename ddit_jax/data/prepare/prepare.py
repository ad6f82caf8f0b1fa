"""Writes ArrayRecord shards from any source: parallel, resumable, exact.

A shard holds a contiguous range of the source, because sources read fastest
in order. The same source and options give the same bytes, in whatever order
threads work and however often a run was killed.
"""

import collections
import concurrent.futures
import dataclasses
import json
import logging
import math
import os
import pathlib
import threading
from collections.abc import Sequence
from typing import Any

from ddit_jax.data import example as record_format
from ddit_jax.data.bad_records import (
  Progress,
  RecordTally,
  TooManyBadRecords_of_record_tally,
)
from ddit_jax.data.example import BadRecord, Example, Source
from ddit_jax.data.image import (
  Filters,
  HeaderError,
  image_size_of_bytes,
  reencoded,
)
from ddit_jax.data.prepare import shards
from ddit_jax.data.prepare.shards import (
  FinishedShard,
  PreparedDataset,
  PrepareError,
  Shard,
  ShardWriter,
  UnfinishedFolder,
  is_finished,
  require_equal_plans,
  shards_bytes,
)
from ddit_jax.files import check_free_space, replace_file

_RECORDS_PER_SHARD = 8192


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrepareOptions:
  """All that decides which bytes are written.

  Attributes:
    num_shards: files; None chooses one for every 8192 records.
    short_side: larger images are shrunk to it, in pixels; None keeps the
      image files as they are, undecoded.
    jpeg_quality: of shrunk images, 1..100.
    max_ratio: images whose sides have a larger ratio are left out; infinity
      keeps all.
    min_short_side: smaller images are left out, in pixels; 0 keeps all.
  """

  num_shards: int | None = None
  short_side: int | None = None
  jpeg_quality: int = 95
  max_ratio: float = math.inf
  min_short_side: int = 0

  def __post_init__(self):
    if self.num_shards is not None and not 1 <= self.num_shards <= 99_999:
      raise ValueError(f"shards must lie in 1..99999, got {self.num_shards}")
    if self.short_side is not None and self.short_side < 1:
      raise ValueError(f"short_side must be positive, got {self.short_side}")
    if not 1 <= self.jpeg_quality <= 100:
      raise ValueError(
        f"jpeg_quality must lie in 1..100, got {self.jpeg_quality}"
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
    """How many files that many records go into."""
    if self.num_shards is not None:
      return self.num_shards
    return max(1, math.ceil(num_records / _RECORDS_PER_SHARD))

  def as_json(self, num_records: int) -> dict[str, Any]:
    """What dataset.json keeps; equal for options that write equal bytes."""
    return {
      "num_shards": self.shards_for(num_records),
      "short_side": self.short_side,
      "jpeg_quality": self.jpeg_quality if self.short_side else None,
      "max_ratio": self.max_ratio if math.isfinite(self.max_ratio) else None,
      "min_short_side": self.min_short_side,
    }

  def refused(self, example: Example) -> str | None:
    """Name of the filter that leaves an example out, or None.

    Raises:
      BadRecord: the size is asked for, and the image's header gives none.
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


BAD_RECORDS_NAME = "bad_records.jsonl"
MAX_THREADS = 16

_SAMPLED_RECORDS = 32

_logger = logging.getLogger(__name__)


def prepare(
  source: Source,
  out: str | os.PathLike,
  options: PrepareOptions,
  *,
  threads: int | None = None,
  max_bad_rate: float = 0.01,
  progress: Progress | None = None,
) -> PreparedDataset:
  """Writes all records of a source, or what is missing of them.

  Args:
    source: read by several threads at once.
    out: a new or empty folder, or one that this source and these options
      began or finished before.
    options: what is done to the records.
    threads: at work at once, each at one shard; None uses all cores, at most
      MAX_THREADS.
    max_bad_rate: share of the source's records that may be bad. They are left
      out, counted by reason and listed in bad_records.jsonl.
    progress: called after every record, by one thread at a time.

  Returns:
    What dataset.json says.

  Raises:
    PrepareError: nothing to write, too many bad records, no room on the disk,
      a folder with something else in it.
    OSError: the folder cannot be written.
  """
  if not 0 <= max_bad_rate <= 1:
    raise PrepareError(f"max_bad_rate must lie in 0..1, got {max_bad_rate}")
  if threads is not None and threads < 1:
    raise PrepareError(f"threads must be positive, got {threads}")
  if not len(source):
    raise PrepareError(f"{source.name} has no records to prepare")
  folder = UnfinishedFolder(pathlib.Path(out))
  facts = {
    "name": source.name,
    "fingerprint": source.fingerprint(),
    "num_records": len(source),
  }
  plan = _plan(facts, options.as_json(len(source)))
  if is_finished(folder.folder):
    dataset = _finished_dataset(folder.folder, plan)
    folder.clear()
    return dataset
  tally = RecordTally(len(source), max_bad_rate=max_bad_rate, progress=progress)
  with folder.locked(plan):
    job = _Job(source, options, folder, tally)
    job.run(threads or min(MAX_THREADS, os.cpu_count() or 1))
    dataset = job.dataset(facts)
    shards.write_dataset(folder.folder, dataset)
    folder.clear()
  return dataset


def record_ranges(num_records: int, num_shards: int) -> list[range]:
  """Contiguous source indices of every shard, equal to within one."""
  ends = [shard * num_records // num_shards for shard in range(num_shards + 1)]
  return [range(*ends[shard : shard + 2]) for shard in range(num_shards)]


def shard_name(index: int, num_shards: int) -> str:
  """ "part-00002-of-00016.array_record"."""
  suffix = shards.SHARD_SUFFIX
  return f"part-{index:05d}-of-{num_shards:05d}{suffix}"


class _Job:
  """Writes the shards of one folder."""

  def __init__(
    self,
    source: Source,
    options: PrepareOptions,
    folder: UnfinishedFolder,
    tally: RecordTally,
  ):
    self._source, self._options = source, options
    self._folder, self._tally = folder, tally
    count = options.shards_for(len(source))
    self._ranges = {
      shard_name(index, count): indices
      for index, indices in enumerate(record_ranges(len(source), count))
    }
    self._finished: dict[str, FinishedShard] = {}
    self._stop = threading.Event()

  def run(self, threads: int) -> None:
    """Writes the shards that are not finished."""
    try:
      self._count_finished()
      unfinished = [name for name in self._ranges if name not in self._finished]
      self._require_room(unfinished)
      self._write_shards(unfinished, threads)
    except TooManyBadRecords_of_record_tally as error:
      raise PrepareError(
        f"{self._source.name}: {error}: look at "
        f"{self._folder.folder / BAD_RECORDS_NAME}, mend the source, or allow "
        "more with max_bad_rate"
      ) from error
    finally:
      self._list_bad_records()

  def dataset(self, source_facts: dict[str, Any]) -> PreparedDataset:
    """What was written, once `run` returned."""
    finished = [self._finished[name] for name in self._ranges]
    removed = collections.Counter(dict(self._source.removed))
    for shard in finished:
      removed.update(shard.removed)
    dataset = PreparedDataset(
      shards=tuple(shard.shard for shard in finished),
      removed=dict(removed),
      bad_records=self._tally.reasons(),
      source=source_facts,
      options=self._options.as_json(len(self._source)),
    )
    if not dataset.num_records:
      raise PrepareError(
        f"{self._source.name}: no record is left (removed {dict(removed)}, bad "
        f"{dict(dataset.bad_records)}): change the filters"
      )
    return dataset

  def _count_finished(self) -> None:
    for name, indices in self._ranges.items():
      finished = self._folder.finished(name)
      if finished is not None:
        self._finished[name] = finished
        self._tally.add(len(indices), finished.bad_records)
    if self._finished:
      _logger.info(
        "resuming: %d of %d shards are finished",
        len(self._finished),
        len(self._ranges),
      )

  def _require_room(self, names: Sequence[str]) -> None:
    """Says how large the shards will be; raises if the disk is too small."""
    needed = self._estimated_bytes(names)
    facts = check_free_space(
      self._folder.folder,
      needed,
      remedy="choose another disk, or shrink the images with short_side",
    )
    _logger.info("writing %s: about %s", self._folder.folder, facts)

  def _estimated_bytes(self, names: Sequence[str]) -> int:
    """Size of shards, from a few records spread over the source."""
    step = max(1, len(self._source) // _SAMPLED_RECORDS)
    sizes = []
    for index in range(0, len(self._source), step):
      # The shard's own pass reports what is bad about it.
      record = self._record(index, collections.Counter(), [])
      sizes.append(0 if record is None else len(record))
    return shards_bytes(
      sum(len(self._ranges[name]) for name in names),
      num_shards=len(names),
      bytes_per_record=sum(sizes) / len(sizes),
    )

  def _write_shards(self, names: Sequence[str], threads: int) -> None:
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
      try:
        futures = [pool.submit(self._write_shard, name) for name in names]
        for future in concurrent.futures.as_completed(futures):
          future.result()
      except BaseException:
        self._stop.set()
        pool.shutdown(wait=False, cancel_futures=True)
        raise

  def _write_shard(self, name: str) -> None:
    removed: collections.Counter[str] = collections.Counter()
    bad: list[dict[str, Any]] = []
    path = self._folder.partial_path(name)
    num_records = 0
    with ShardWriter(path) as writer:
      for index in self._ranges[name]:
        if self._stop.is_set():
          return
        num_bad = len(bad)
        record = self._record(index, removed, bad)
        if record is not None:
          writer.write(record)
          num_records += 1
        self._tally.add(1, bad[num_bad:])
    shard = Shard(
      name=name,
      num_records=num_records,
      num_bytes=path.stat().st_size,
      blake2b=shards.file_hash(path),
    )
    finished = FinishedShard(
      shard=shard, removed=dict(removed), bad_records=tuple(bad)
    )
    self._folder.finish(finished)
    self._finished[name] = finished

  def _record(
    self, index: int, removed: collections.Counter, bad: list[dict[str, Any]]
  ) -> bytes | None:
    """One record's bytes; None if a filter or an error leaves it out."""
    try:
      example = self._source[index]
      refused = self._options.refused(example)
      if refused is None:
        return self._options.record(example)
      removed[refused] += 1
    except BadRecord as error:
      bad.append(
        {
          "index": index,
          "record_id": error.record_id,
          "reason": error.reason,
          "detail": error.detail,
        }
      )
    except OSError as error:
      raise PrepareError(
        f"{self._source.name}: record {index} cannot be read ({error}): run "
        "again to go on from here"
      ) from error
    return None

  def _list_bad_records(self) -> None:
    lines = [
      json.dumps(entry, sort_keys=True) for entry in self._tally.bad_records()
    ]
    path = self._folder.folder / BAD_RECORDS_NAME
    # This also makes the names of the shards survive a power loss.
    replace_file(path, "".join(f"{line}\n" for line in lines).encode())


def _plan(source: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
  """What decides the bytes; the source's name does not."""
  return {
    "source_fingerprint": source["fingerprint"],
    "source_num_records": source["num_records"],
  } | options


def _finished_dataset(
  folder: pathlib.Path, plan: dict[str, Any]
) -> PreparedDataset:
  """What an earlier run finished.

  Raises:
    PrepareError: it had another plan, or shards are gone.
  """
  try:
    dataset = shards.read_dataset(folder)
    begun = _plan(dict(dataset.source), dict(dataset.options))
    require_equal_plans(folder, begun, plan)
    found = [p.name for p in folder.glob(f"*{shards.SHARD_SUFFIX}")]
    shards.check_shards(folder, dataset.shards, found=found)
  except (ValueError, KeyError) as error:
    raise PrepareError(str(error)) from error
  _logger.info("%s is finished already", folder)
  return dataset
