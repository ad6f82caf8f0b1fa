"""Writes one source's cache: by several processes, resumable, exact.

A part of a cache is a contiguous range of the source, with a shard of latents
and one of features. Process p of P writes the parts p, p + P, ...; parts and
their bytes do not depend on P, nor on how often a run was killed.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterator

from ddit_jax.data.caches import cache_folder
from ddit_jax.data.caches.cache_folder import FinishedPart
from ddit_jax.data.caches.cache_manifest import (
  CacheManifest,
  CachePlan,
  check_files,
  read_manifest,
  write_manifest,
)
from ddit_jax.data.caches.cache_rows import RowReader
from ddit_jax.data.caches.part_writer import PartWriter, RowEncoders
from ddit_jax.data.prepare_records import record_ranges
from ddit_jax.data.record_tally import Progress, RecordTally, TooManyBadRecords
from ddit_jax.data.unfinished_folder import (
  PrepareError,
  UnfinishedFolder,
  is_finished,
  require_equal_plans,
)


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
      if cache_folder.finished_part(folder, self._names(part)) is None
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
    return cache_folder.part_names(part, self.plan.num_shards, has_features)

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
          finished = cache_folder.finished_part(folder, self._names(part))
          if finished is None:
            names = self._names(part)
            part_writer = PartWriter(self.plan, folder, names, tally)
            part_writer.run(ranges[part], self.reader, self.encoders, pool)
          else:
            tally.add(len(ranges[part]), finished.bad_records)
    except TooManyBadRecords as error:
      cache_folder.list_bad_records(folder, tally.bad_records())
      raise PrepareError(
        f"{self.reader.source.name}: {error}: look at "
        f"{self.folder / cache_folder.BAD_RECORDS_NAME}, mend the source, or "
        "allow more with max_bad_rate"
      ) from error

  def _finish(self, folder: UnfinishedFolder) -> CacheManifest:
    """What all processes wrote; the first one writes it down."""
    self.processes.barrier("written")
    if not self.processes.index:
      names = [self._names(part) for part in range(self.plan.num_shards)]
      parts = [cache_folder.finished_part(folder, some) for some in names]
      cache_folder.list_bad_records(
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
