"""Opens the index of WebDataset shards, building it when it must be."""

import collections
import concurrent.futures
import dataclasses
import hashlib
import json
import logging
import multiprocessing
import pathlib
import stat
import time
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from ddit_jax.data.filters import with_hint
from ddit_jax.data.sources.partial_files import appearing_file
from ddit_jax.data.sources.tar_index_file import (
  VERSION,
  Footer,
  IndexReport,
  Shard,
  TarIndex,
  plain_rules,
  read_index,
  write_footer,
)
from ddit_jax.data.sources.tar_samples import (
  RECORD,
  SampleRules,
  ShardSamples,
  shard_samples,
)

SUFFIX = ".tarindex"

# Starting worker processes takes about half a second each.
_SECONDS_ALONE = 2.0
_SECONDS_BETWEEN_NEWS = 30.0
_THREADS = 16
_NAMED = 5

_log = logging.getLogger(__name__)


def look_at(folder: pathlib.Path, names: Sequence[str]) -> list[Shard]:
  """Sizes and times of shards; many at a time, for network folders.

  Raises:
    ValueError: one is missing or no file.
  """

  def look(name: str) -> Shard:
    path = folder / name
    try:
      status = path.stat()
    except OSError as error:
      raise ValueError(f"shard {path}: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode):
      raise ValueError(f"shard {path} is no file")
    return Shard(
      name=name, num_bytes=status.st_size, mtime_ns=status.st_mtime_ns
    )

  with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
    return list(pool.map(look, names))


def fingerprint(shards: Sequence[Shard], rules: SampleRules) -> str:
  """Hex digest of names, sizes, times and rules."""
  return _digest([dataclasses.astuple(shard) for shard in shards], rules)


def open_index(
  folder: pathlib.Path,
  shards: Sequence[Shard],
  rules: SampleRules,
  *,
  index_folder: pathlib.Path,
  workers: int,
) -> TarIndex:
  """Opens the index of these shards, after building it if it must be.

  Args:
    folder: that all shards share.
    shards: as `look_at` sees them now.
    rules: an index belongs to one set of rules.
    index_folder: where the index lies or will lie.
    workers: processes that build, at most.

  Raises:
    ValueError: a shard is compressed, or no sample can be used.
    OSError: a shard cannot be read or the index not be written.
  """
  names = [shard.name for shard in shards]
  if index_folder != folder:
    # Elsewhere, indexes of different folders lie side by side.
    names.insert(0, str(folder))
  path = index_folder / f"webdataset-{_digest(names, rules)[:16]}{SUFFIX}"
  if path.exists():
    try:
      return read_index(path, shards, rules)
    except ValueError as error:
      _log.warning("%s is built again: %s", path, error)
  _log.info("indexing %d shards of %s", len(shards), folder)
  with appearing_file(path) as file:
    _build(file, folder, shards, rules, workers)
  return read_index(path, shards, rules)


def _build(
  file: BinaryIO,
  folder: pathlib.Path,
  shards: Sequence[Shard],
  rules: SampleRules,
  workers: int,
) -> None:
  """Writes an index, one shard's records at a time."""
  start = time.monotonic()
  paths = [str(folder / shard.name) for shard in shards]
  counts, total = [], _Total()
  for shard, found in zip(
    shards, _all_samples(paths, rules, workers), strict=True
  ):
    file.write(found.records)
    counts.append(len(found.records) // RECORD.itemsize)
    total.add(shard.name, found)
    total.tell_now_and_then(len(counts), len(shards), sum(counts))
  report = total.report(time.monotonic() - start)
  _tell(report, folder, sum(counts))
  write_footer(
    file,
    Footer(
      rules=plain_rules(rules), shards=shards, counts=counts, report=report
    ),
  )


class _Total:
  """What was left out so far."""

  def __init__(self):
    self._removed: collections.Counter = collections.Counter()
    self._named: dict[str, list[str]] = {}
    self._damaged: dict[str, str] = {}
    self._num_other = 0
    self._last_news = time.monotonic()

  def add(self, name: str, found: ShardSamples) -> None:
    """Adds a shard's."""
    self._removed += found.removed
    self._num_other += found.num_other
    for reason, names in found.named.items():
      self._named[reason] = (self._named.get(reason, []) + names)[:_NAMED]
    if found.damage is not None:
      self._damaged[name] = found.damage

  def tell_now_and_then(
    self, num_done: int, num_shards: int, num_samples: int
  ) -> None:
    """Logs how far it is, twice a minute."""
    if time.monotonic() - self._last_news > _SECONDS_BETWEEN_NEWS:
      self._last_news = time.monotonic()
      _log.info(
        "indexed %d of %d shards, %d samples", num_done, num_shards, num_samples
      )

  def report(self, seconds: float) -> IndexReport:
    """The sums of all shards."""
    return IndexReport(
      removed=dict(sorted(self._removed.items())),
      named=self._named,
      damaged=self._damaged,
      num_other=self._num_other,
      seconds=round(seconds, 3),
    )


def _tell(report: IndexReport, folder: pathlib.Path, num_samples: int) -> None:
  """Logs what was left out.

  Raises:
    ValueError: nothing is left.
  """
  left_out = with_hint(report.removed)
  breaks = [f"{name}: {why}" for name, why in report.damaged.items()]
  if not num_samples:
    raise ValueError(
      f"no sample of {folder} can be used (left out: {left_out or 'none'}; "
      f"{report.num_other} members without extension"
      f"{'; ' + breaks[0] if breaks else ''}): samples need an image NAME.jpg, "
      ".jpeg, .png or .webp and a text NAME.txt or .json"
    )
  _log.info("indexed %d samples in %.1f s", num_samples, report.seconds)
  if left_out:
    _log.warning("left out of %s: %s; %s", folder, left_out, report.named)
  for line in breaks:
    _log.warning("a shard of %s breaks off: %s", folder, line)


def _all_samples(
  paths: Sequence[str], rules: SampleRules, workers: int
) -> Iterator[ShardSamples]:
  """The samples of each shard, in order.

  Small sets are done before worker processes would have started. Processes,
  for walking headers is Python that holds its global lock: two threads were
  not faster than one, two processes were.
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
  """Few results wait at a time, so memory stays bounded."""
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


def _digest(names: list, rules: SampleRules) -> str:
  body = json.dumps([VERSION, names, plain_rules(rules)]).encode()
  return hashlib.blake2b(body, digest_size=16).hexdigest()
