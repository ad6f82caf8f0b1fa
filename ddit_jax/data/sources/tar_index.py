"""An index of the samples in tar shards: built once, 32 bytes per sample.

NAME.tarindex is a JSON file with the shards, rules and counts that belong to
the records in NAME.records, and with the hashes of both. It is written last, so
its presence implies theirs.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import json
import logging
import multiprocessing
import pathlib
import time
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Int

from ddit_jax.data.example import REASONS, BadRecord
from ddit_jax.data.image_header import with_hint
from ddit_jax.data.sources.paths import FileFacts, file_facts
from ddit_jax.data.sources.tar_samples import (
  MAX_NAMED,
  RECORD,
  SampleRules,
  ShardSamples,
  shard_samples,
)
from ddit_jax.files import appearing_file
from ddit_jax.json_files import file_hash, read_sealed, sealed

_INDEX_SUFFIX = ".tarindex"

_MAX_INDEX_BYTES = 2**30

# Changes with the format of the two files.
_VERSION = 3
_FINGERPRINT_VERSION = 1
# Starting worker processes takes about half a second each.
_SECONDS_ALONE = 2.0
_SECONDS_BETWEEN_NEWS = 30.0

_log = logging.getLogger(__name__)


@dataclasses.dataclass
class IndexReport:
  """Statistics from building an index.

  Attributes:
    removed: reason to the number of samples that are skipped.
    named: reason to the first few names that were skipped for it.
    damaged: truncated shard to its error.
    num_other: members without extension, which belong to no sample.
  """

  removed: dict[str, int] = dataclasses.field(default_factory=dict)
  named: dict[str, list[str]] = dataclasses.field(default_factory=dict)
  damaged: dict[str, str] = dataclasses.field(default_factory=dict)
  num_other: int = 0

  def faults(self) -> Iterator[BadRecord]:
    """Named samples whose data are at fault, as opposed to filtered ones."""
    for reason, names in self.named.items():
      if reason in REASONS:
        for name in names:
          yield BadRecord(reason, "left out of the index", name)

  def add(self, shard: str, found: ShardSamples) -> None:
    """Adds the results of one shard."""
    total = collections.Counter(self.removed) + found.removed
    self.removed = dict(sorted(total.items()))
    self.num_other += found.num_other
    for reason, names in found.named.items():
      self.named[reason] = (self.named.get(reason, []) + names)[:MAX_NAMED]
    if found.damage is not None:
      self.damaged[shard] = found.damage


@dataclasses.dataclass(frozen=True, kw_only=True)
class TarIndex:
  """An index that fits its shards; pickles without its records.

  Attributes:
    path: of the records.
    ends: int64 [shards], number of samples up to and with each shard.
    report: statistics from building it.
  """

  path: pathlib.Path
  ends: Int[np.ndarray, " shards"]
  report: IndexReport

  def __getstate__(self) -> dict[str, Any]:
    return {k: v for k, v in vars(self).items() if k != "records"}

  @functools.cached_property
  def records(self) -> np.ndarray:
    """RECORD [samples], memory-mapped."""
    # A plain array over the same pages: rows of a memmap are slow to take.
    return np.asarray(np.memmap(self.path, RECORD, mode="r"))


def index_fingerprint(shards: Sequence[FileFacts], rules: SampleRules) -> str:
  """Hex digest of names, sizes, times and rules."""
  return _digest([_FINGERPRINT_VERSION, shards, rules.as_json()])


def open_index(
  folder: pathlib.Path,
  shards: Sequence[FileFacts],
  rules: SampleRules,
  *,
  index_folder: pathlib.Path,
  workers: int,
) -> TarIndex:
  """Opens the index of these shards, after building it if necessary.

  Args:
    folder: common to all shards.
    shards: their current state, with names below the folder.
    rules: an index belongs to one set of rules.
    index_folder: of the index.
    workers: processes that build, at most.

  Raises:
    ValueError: a shard is compressed, or no sample can be used.
    OSError: a shard cannot be read or the index cannot be written.
  """
  names = [shard.name for shard in shards]
  if index_folder != folder:
    # Another folder may hold indexes of several data folders.
    names.insert(0, str(folder))
  digest = _digest([_VERSION, names, rules.as_json()])
  path = index_folder / f"webdataset-{digest[:16]}{_INDEX_SUFFIX}"
  if path.exists():
    try:
      return read_index(path, shards, rules)
    except ValueError as error:
      _log.warning("%s is built again: %s", path, error)
  _log.info("indexing %d shards of %s", len(shards), folder)
  start = time.monotonic()
  with appearing_file(_records_path(path)) as file:
    counts, report = _build(file, folder, shards, rules, workers)
    _tell(report, folder, sum(counts), time.monotonic() - start)
  write_index(path, shards, rules, counts=counts, report=report)
  return read_index(path, shards, rules)


def write_index(
  path: pathlib.Path,
  shards: Sequence[FileFacts],
  rules: SampleRules,
  *,
  counts: Sequence[int],
  report: IndexReport,
) -> None:
  """Writes the file that describes the records.

  Args:
    path: of the index.
    shards: in order.
    rules: by which samples were chosen.
    counts: number of samples in each shard.
    report: statistics from building it.
  """
  body = {
    "version": _VERSION,
    "rules": rules.as_json(),
    "shards": shards,
    "counts": counts,
    "report": dataclasses.asdict(report),
    "records": file_hash(_records_path(path)),
  }
  # Several processes may write it at once, with equal contents.
  with appearing_file(path) as file:
    file.write(sealed(body))


def read_index(
  path: pathlib.Path, shards: Sequence[FileFacts], rules: SampleRules
) -> TarIndex:
  """An index that fits the shards in their current state.

  Raises:
    ValueError: it is of other shards or rules, or damaged.
  """
  file_facts(path)
  body = read_sealed(path, max_bytes=_MAX_INDEX_BYTES)
  try:
    then = [FileFacts(*facts) for facts in body["shards"]]
    report = IndexReport(**body["report"])
    counts = np.asarray(body["counts"])
    is_same = (body["version"], body["rules"]) == (_VERSION, rules.as_json())
    records_hash = body["records"]
  except (KeyError, TypeError) as error:
    raise ValueError(f"it is damaged: {error}") from error
  if not is_same or len(then) != len(shards):
    raise ValueError("it was built for other shards or filters")
  changed = [a.name for a, b in zip(shards, then, strict=True) if a != b]
  if changed:
    raise ValueError(
      f"{len(changed)} of {len(shards)} shards have changed since, first "
      f"{changed[0]}"
    )
  is_sound = counts.shape == (len(shards),) and counts.dtype == np.int64
  if not is_sound or counts.min() < 0:
    raise ValueError("it is damaged: no counts of samples")
  records = _records_path(path)
  num_bytes = file_facts(records).num_bytes
  if num_bytes != counts.sum() * RECORD.itemsize:
    raise ValueError(f"it is damaged: {num_bytes} bytes of records")
  if file_hash(records) != records_hash:
    raise ValueError(f"{records} is damaged: its hash is another one")
  return TarIndex(path=records, ends=np.cumsum(counts), report=report)


def _records_path(path: pathlib.Path) -> pathlib.Path:
  return path.with_suffix(".records")


def _digest(body: Any) -> str:
  data = json.dumps(body).encode()
  return hashlib.blake2b(data, digest_size=16).hexdigest()


def _build(
  file: BinaryIO,
  folder: pathlib.Path,
  shards: Sequence[FileFacts],
  rules: SampleRules,
  workers: int,
) -> tuple[list[int], IndexReport]:
  """Writes records shard by shard; (number in each, statistics)."""
  paths = [str(folder / shard.name) for shard in shards]
  counts, report, last_news = [], IndexReport(), time.monotonic()
  with contextlib.closing(_all_samples(paths, rules, workers)) as samples:
    for shard, found in zip(shards, samples, strict=True):
      file.write(found.records)
      counts.append(len(found.records) // RECORD.itemsize)
      report.add(shard.name, found)
      if time.monotonic() - last_news > _SECONDS_BETWEEN_NEWS:
        last_news = time.monotonic()
        progress = len(counts), len(shards), sum(counts)
        _log.info("indexed %d of %d shards, %d samples", *progress)
  return counts, report


def _tell(
  report: IndexReport, folder: pathlib.Path, num_samples: int, seconds: float
) -> None:
  """Logs what is skipped; raises ValueError if no sample remains."""
  skipped = with_hint(report.removed)
  breaks = [f"{name}: {why}" for name, why in report.damaged.items()]
  if not num_samples:
    raise ValueError(
      f"no sample of {folder} can be used (skipped: {skipped or 'none'}; "
      f"{report.num_other} members without extension"
      f"{'; ' + breaks[0] if breaks else ''}): samples need an image NAME.jpg, "
      ".jpeg, .png or .webp and, unless filters.drop_empty_captions is False, "
      "a text NAME.txt or .json"
    )
  _log.info("indexed %d samples in %.1f s", num_samples, seconds)
  if skipped:
    _log.warning("skipped in %s: %s; %s", folder, skipped, report.named)
  for line in breaks:
    _log.warning("a shard of %s breaks off: %s", folder, line)


def _all_samples(
  paths: Sequence[str], rules: SampleRules, workers: int
) -> Iterator[ShardSamples]:
  """The samples of each shard, in order.

  Small sets are done before worker processes would have started. Walking
  headers holds Python's global lock: two threads were not faster than one, but
  two processes were.
  """
  start = time.monotonic()
  for done, path in enumerate(paths):
    is_long = time.monotonic() - start > _SECONDS_ALONE
    if is_long and min(workers, len(paths) - done) > 1:
      yield from _in_processes(paths[done:], rules, workers)
      return
    yield shard_samples(path, rules)


def _in_processes(
  paths: Sequence[str], rules: SampleRules, workers: int
) -> Iterator[ShardSamples]:
  """Limits pending results, so memory stays bounded."""
  # Forking would copy locks that other threads (JAX's) hold.
  context = multiprocessing.get_context("spawn")
  waiting = collections.deque()
  with concurrent.futures.ProcessPoolExecutor(
    min(workers, len(paths)), mp_context=context
  ) as pool:
    try:
      for path in paths:
        waiting.append(pool.submit(shard_samples, path, rules))
        if len(waiting) > 3 * workers:
          yield waiting.popleft().result()
      while waiting:
        yield waiting.popleft().result()
    except concurrent.futures.BrokenExecutor as error:
      raise ValueError(
        f"a process that indexes shards died ({error}): give this source "
        "workers=1, or start from a script with a __main__ guard"
      ) from error
    finally:
      pool.shutdown(wait=False, cancel_futures=True)
