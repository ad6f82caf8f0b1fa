"""The writer of ArrayRecord shards: parallel, resumable, exact.

`ddit prepare` copies records with it, `ddit prepare --cache` writes encoder
outputs. The source is cut into parts: contiguous ranges, because sources read
fastest in order. A part has one file of each kind ("part", or "latents" and
"features"), and they get their names when the whole part is written. The same
source and options give the same bytes, regardless of the order in which threads
and processes work and of how often a run is killed.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import logging
import os
import pathlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO

from ddit_jax.data.example import Example, Source, instruction_of
from ddit_jax.data.prepare.shards import (
  DATASET_NAME,
  SHARD_SUFFIX,
  FolderFormat,
  Manifest,
  Shard,
  ShardFile,
  check_shards,
  plan_differences,
  read_dataset,
  write_dataset,
)
from ddit_jax.data.prepare.tally import (
  BadEntry,
  RecordProgress,
  Tally,
  TooManyBad,
  reasons_of,
)
from ddit_jax.errors import InputError, preparing
from ddit_jax.files import replace_file, take_lock
from ddit_jax.json_files import (
  file_hash,
  read_json_object,
  read_sealed,
  sealed,
  write_json,
  write_lines,
)

BAD_RECORDS_NAME = "bad_records.jsonl"

_IN_PROGRESS = "in_progress"
_MAX_JSON_BYTES = 2**28
_NOT_THERE = (FileNotFoundError, NotADirectoryError)

_log = logging.getLogger(__name__)


# Called with the number of newly finished records, and the bad ones.
ReportProgress = Callable[[int, Sequence[BadEntry]], None]
# (filter's name to the number of records it skipped, all other counts)
Counts = tuple[Mapping[str, int], Mapping[str, int]]
# Writes a range of records to one file of each kind.
WritePart = Callable[[range, Sequence[ShardFile], ReportProgress], Counts]


def read_example(source: Source, index: int) -> Example:
  """One example.

  Raises:
    BadRecord: it cannot be used.
    InputError: a read error of the disk.
  """
  try:
    return source[index]
  except OSError as error:
    raise InputError(
      f"{source.name}: record {index} cannot be read ({error}): run again to "
      "resume from here"
    ) from error


@dataclasses.dataclass(frozen=True, kw_only=True)
class Processes:
  """The processes that write the same folder.

  Attributes:
    index: of this process.
    count: of all.
    barrier: returns when all processes called it with the same name.
  """

  index: int = 0
  count: int = 1
  barrier: Callable[[str], None] = lambda name: None


@dataclasses.dataclass(frozen=True, kw_only=True)
class _FinishedPart:
  """The shards of one part, and the outcome for its records."""

  shards: tuple[Shard, ...]
  bad_records: tuple[BadEntry, ...]
  removed: Mapping[str, int]
  counts: Mapping[str, int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShardWriter:
  """Writes one source's shards into a folder.

  Attributes:
    folder: a new or empty folder, or one that the same source and options
      began or finished.
    fmt: format of the records.
    source: read by several threads at once.
    options: JSON values; with the source they determine the bytes.
    write_part: reads a range of the source and writes it.
    num_parts: how many ranges the source is cut into.
    kinds: of the files of a part; their names start with it.
    threads: parts written at once.
    max_bad_rate: fraction of the source's records that may be bad. Bad records
      are counted by reason and listed in bad_records.jsonl.
    progress: called after every report, by one thread at a time.
    check_room: called with the missing ranges before any is written.
    processes: this one and the others; process p of P writes the parts p,
      p + P, ...
  """

  folder: pathlib.Path
  fmt: FolderFormat
  source: Source
  options: Mapping[str, Any]
  write_part: WritePart
  num_parts: int
  kinds: Sequence[str] = ("part",)
  threads: int = 1
  max_bad_rate: float = 0.01
  progress: RecordProgress | None = None
  check_room: Callable[[list[range]], None] = lambda parts: None
  processes: Processes = Processes()

  def __post_init__(self):
    if not 0 <= self.max_bad_rate <= 1:
      raise InputError(
        f"max_bad_rate must be between 0 and 1, got {self.max_bad_rate}"
      )
    if self.threads < 1:
      raise InputError(f"threads must be positive, got {self.threads}")
    if not len(self.source):
      raise InputError(f"{self.source.name} has no records to prepare")

  def write(self) -> Manifest:
    """Writes missing parts, and returns the folder's manifest.

    Raises:
      InputError: another plan or process, too many bad records, a full disk,
        no record left, or a folder with other contents.
      OSError: the folder cannot be written.
    """
    if self._is_finished() and not self._path("").exists():
      _log.info("%s is already finished", self.folder)
      return self._checked()
    with self._locked():
      # Another writer may have finished while this one opened its source.
      if not self._is_finished():
        with self._removed_if_empty():
          if missing := self.unfinished_parts():
            self.check_room(missing)
        self._write_parts()
        with self._removed_if_empty():
          self._finish()
      manifest = self._checked()
      if not self.processes.index:
        shutil.rmtree(self._path(""), ignore_errors=True)
    return manifest

  @contextlib.contextmanager
  def _removed_if_empty(self) -> Iterator[None]:
    """After bad input, removes a folder that holds no record to resume with."""
    try:
      yield
    except InputError:
      parts = map(self._finished, range(self.num_parts))
      shards = [shard for part in parts if part for shard in part.shards]
      has_records = any(shard.num_records for shard in shards)
      if self.processes.count == 1 and not has_records:
        for name in (BAD_RECORDS_NAME, *(shard.name for shard in shards)):
          (self.folder / name).unlink(missing_ok=True)
        shutil.rmtree(self._path(""), ignore_errors=True)
        with contextlib.suppress(OSError):
          self.folder.rmdir()
      raise

  def _is_finished(self) -> bool:
    return (self.folder / DATASET_NAME).is_file()

  def _checked(self) -> Manifest:
    """The manifest of a finished folder that fits the source and its files."""
    manifest = read_dataset(self.folder, self.fmt)
    self._require_plan(_plan(manifest.source, manifest.options))
    check_shards(self.folder, manifest.shards)
    return manifest

  def unfinished_parts(self) -> list[range]:
    """Ranges of records that no process has written yet."""
    if self._is_finished():
      return []
    numbered = enumerate(self._ranges())
    return [indices for part, indices in numbered if not self._finished(part)]

  @contextlib.contextmanager
  def _locked(self) -> Iterator[None]:
    """Locks out other writers; the first process does so for all."""
    with contextlib.ExitStack() as stack:
      if not self.processes.index:
        self._refuse_other_contents()
        stack.enter_context(self._taken_lock())
        if not self._is_finished():
          self._begin_plan()
      self.processes.barrier("locked")
      yield

  def _begin_plan(self) -> None:
    """Writes the plan of a new folder, or compares that of a begun one."""
    path = self._path("plan.json")
    if path.exists():
      with preparing():
        begun = read_json_object(path, max_bytes=_MAX_JSON_BYTES)
      self._require_plan(begun)
    else:
      plan = _plan(self._source_facts(), self.options)
      write_json(path, plan)

  def _taken_lock(self) -> BinaryIO:
    """The locked file, which is unlocked when it is closed."""
    while True:
      try:
        self._path("").mkdir(parents=True, exist_ok=True)
        return take_lock(self._path("lock"))
      except FileNotFoundError:
        # The writer before removed the folder in between.
        continue
      except BlockingIOError as error:
        raise InputError(
          f"another process is writing to {self.folder}: wait for it, or "
          "choose another folder"
        ) from error

  def _source_facts(self) -> dict[str, Any]:
    source = self.source
    facts = {"name": source.name, "fingerprint": source.fingerprint()}
    facts |= {"num_records": len(source), "instruction": instruction_of(source)}
    return {key: value for key, value in facts.items() if value is not None}

  def _require_plan(self, begun: Mapping[str, Any]) -> None:
    plan = _plan(self._source_facts(), self.options)
    if changed := plan_differences(begun, plan):
      raise InputError(
        f"{self.folder} was prepared from another source or with other options "
        f"({', '.join(changed)}): choose another folder, or delete this one"
      )

  def _refuse_other_contents(self) -> None:
    if self.folder.exists() and not self.folder.is_dir():
      raise InputError(f"{self.folder} is a file: choose a new folder")
    if not self.folder.exists() or self._path("plan.json").exists():
      return
    if self._is_finished():
      return
    if others := sorted(set(os.listdir(self.folder)) - {_IN_PROGRESS}):
      raise InputError(
        f"{self.folder} holds {others[0]} and more that ddit prepare did not "
        "write: choose a new or empty folder"
      )

  def _path(self, name: str) -> pathlib.Path:
    """Where a file is while the folder is unfinished."""
    return self.folder / _IN_PROGRESS / name

  def _ranges(self) -> list[range]:
    """Contiguous indices of every part, equal to within one."""
    count, total = self.num_parts, len(self.source)
    ends = [part * total // count for part in range(count + 1)]
    return [range(*ends[part : part + 2]) for part in range(count)]

  def _names(self, part: int) -> list[str]:
    """E.g. ["latents-00002-of-00016.array_record", "features-..."]."""
    number = f"{part:05d}-of-{self.num_parts:05d}{SHARD_SUFFIX}"
    return [f"{kind}-{number}" for kind in self.kinds]

  def _write_parts(self) -> None:
    """Writes this process's parts, skipping finished ones."""
    ranges, unfinished = self._ranges(), []
    mine = range(self.processes.index, self.num_parts, self.processes.count)
    num_records = sum(len(ranges[part]) for part in mine)
    tally = Tally(num_records, self.max_bad_rate, self.progress)
    try:
      for part in mine:
        if finished := self._finished(part):
          tally.add(len(ranges[part]), finished.bad_records)
        else:
          unfinished.append(part)
      if len(unfinished) < len(mine):
        num_done = len(mine) - len(unfinished)
        _log.info("resuming: %d of %d parts are done", num_done, len(mine))
      self._write_in_threads(unfinished, tally)
    except TooManyBad as error:
      self._list_bad_records(tally.bad)
      raise InputError(
        f"{self.source.name}: {error}: look at "
        f"{self.folder / BAD_RECORDS_NAME}, repair the source, or allow more "
        "with max_bad_rate"
      ) from error

  def _write_in_threads(self, parts: Sequence[int], tally: Tally) -> None:
    with concurrent.futures.ThreadPoolExecutor(self.threads) as pool:
      futures = [pool.submit(self._write_part, part, tally) for part in parts]
      try:
        for future in concurrent.futures.as_completed(futures):
          future.result()
      except BaseException:
        tally.is_stopped = True
        pool.shutdown(wait=False, cancel_futures=True)
        raise

  def _write_part(self, part: int, tally: Tally) -> None:
    names, bad = self._names(part), []

    def report(num_done: int, entries: Sequence[BadEntry] = ()) -> None:
      bad.extend(entries)
      tally.add(num_done, entries)

    with contextlib.ExitStack() as stack:
      opened = [ShardFile(self._path(name)) for name in names]
      files = [stack.enter_context(file) for file in opened]
      removed, counts = self.write_part(self._ranges()[part], files, report)
    shards = tuple(
      _written(self._path(name), file.num_records)
      for name, file in zip(names, files, strict=True)
    )
    finished = _FinishedPart(
      shards=shards,
      bad_records=tuple(bad),
      # `asdict` cannot copy a Counter.
      removed=dict(removed),
      counts=dict(counts),
    )
    body = sealed(dataclasses.asdict(finished))
    # If this file is lost or damaged, the part is written again.
    replace_file(
      self._path(f"{names[0]}.json"), body, survives_power_loss=False
    )
    for name in names:
      os.replace(self._path(name), self.folder / name)

  def _finished(self, part: int) -> _FinishedPart | None:
    """The outcome of a part, or None if it must be written."""
    names = self._names(part)
    try:
      path = self._path(f"{names[0]}.json")
      body = read_sealed(path, max_bytes=_MAX_JSON_BYTES)
      finished = _FinishedPart(
        shards=tuple(Shard(**shard) for shard in body["shards"]),
        bad_records=tuple(BadEntry(*entry) for entry in body["bad_records"]),
        removed=body["removed"],
        counts=body["counts"],
      )
      sizes = [(self.folder / name).stat().st_size for name in names]
    except (KeyError, TypeError, ValueError, *_NOT_THERE):
      return None
    listed = [(shard.name, shard.num_bytes) for shard in finished.shards]
    is_there = listed == list(zip(names, sizes, strict=True))
    return finished if is_there else None

  def _finish(self) -> None:
    """Lists the output of all processes; the first one writes the manifest."""
    self.processes.barrier("written")
    if not self.processes.index:
      parts = [self._finished(part) for part in range(self.num_parts)]
      bad = [entry for part in parts for entry in part.bad_records]
      # This also makes the names of the shards survive a power loss.
      self._list_bad_records(bad)
      write_dataset(self.folder, self.fmt, self._manifest(parts, bad))
    self.processes.barrier("finished")

  def _manifest(
    self, parts: Sequence[_FinishedPart], bad: Sequence[BadEntry]
  ) -> Manifest:
    removed = collections.Counter(dict(self.source.removed))
    counts: collections.Counter[str] = collections.Counter()
    for part in parts:
      removed.update(part.removed)
      counts.update(part.counts)
    manifest = Manifest(
      shards=tuple(
        shard
        for shards in zip(*(part.shards for part in parts), strict=True)
        for shard in shards
      ),
      removed=dict(removed),
      bad_records=reasons_of(bad),
      counts=dict(counts),
      source=self._source_facts(),
      options=self.options,
    )
    if not manifest.num_records:
      raise InputError(
        f"{self.source.name}: no record is left (removed {dict(removed)}, bad "
        f"{dict(manifest.bad_records)}): change the filters"
      )
    return manifest

  def _list_bad_records(self, bad: Iterable[BadEntry]) -> None:
    faults = getattr(self.source, "faults", ())
    entries = [{"index": None, **fault.facts()} for fault in faults]
    entries += [entry._asdict() for entry in sorted(bad)]
    write_lines(self.folder / BAD_RECORDS_NAME, entries)


def _plan(
  source: Mapping[str, Any], options: Mapping[str, Any]
) -> dict[str, Any]:
  """The options that determine the bytes, without the source's name."""
  facts = {
    f"source_{key}": source.get(key) for key in ("fingerprint", "num_records")
  }
  return facts | dict(options)


def _written(path: pathlib.Path, num_records: int) -> Shard:
  """The entry of a finished file; waits for the disk."""
  with open(path, "rb") as file:
    os.fsync(file.fileno())
  return Shard(
    name=path.name,
    num_records=num_records,
    num_bytes=path.stat().st_size,
    blake2b=file_hash(path),
  )
