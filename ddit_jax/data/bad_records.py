"""Statistics of reading: bad records by reason, and texts not read whole."""

import collections
import dataclasses
import json
import pathlib
import threading
from collections.abc import Iterable

from ddit_jax.data.example import BadRecord, TrainingRecord
from ddit_jax.errors import InputError


class TooManyBadRecords(InputError):
  """A source is too broken to train on; the message is one line.

  Attributes:
    source: name of the source of `bad`.
    bad: records that no `ReadLog` has seen yet.
  """

  source: str = ""
  bad: tuple[BadRecord, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class BadRecordLimit:
  """The limit on bad records.

  Attributes:
    max_bad_share: fraction of a source's reads that may fail; more stop the
      run.
  """

  max_bad_share: float = 0.01

  def __post_init__(self):
    if not 0 <= self.max_bad_share <= 1:
      raise ValueError(
        f"max_bad_share must be in [0, 1], got {self.max_bad_share}"
      )


class ReadLog:
  """Counts for all sources of one process; any thread may write.

  Bad records are listed as JSON lines in one file; resumed runs append to it.
  """

  def __init__(
    self,
    path: pathlib.Path,
    limit: BadRecordLimit = BadRecordLimit(),
    *,
    min_reads: int = 1000,
    max_lines: int = 10_000,
  ):
    """Args:
    path: the JSONL file; its folder exists. Each process needs its own.
    limit: what stops the run.
    min_reads: reads of a source, at least 1, before its fraction is checked.
    max_lines: lines in the file; further bad records are only counted.
    """
    self._path = path
    self._max_bad_share = limit.max_bad_share
    self._min_reads, self._max_lines = min_reads, max_lines
    self._lock = threading.Lock()
    self._counts: collections.Counter[str] = collections.Counter()
    self._num_lines = _num_lines(path)
    self._is_resumed = path.exists()

  def add(self, record: TrainingRecord) -> None:
    """Counts a record that was read, and the bad ones it replaces.

    Raises:
      TooManyBadRecords: the source's bad fraction exceeds the limit.
    """
    if not record.source:
      return
    self.add_bad(record.source, record.bad)
    with self._lock:
      self._counts[f"{record.source}/reads"] += 1
      if cut := record.num_truncated:
        self._counts[f"{record.source}/truncated_texts"] += 1
        self._counts[f"{record.source}/truncated_tokens"] += cut
      if record.num_unknown:
        self._counts[f"{record.source}/texts_with_unknown_words"] += 1
      if record.is_animation:
        self._counts[f"{record.source}/animations"] += 1

  def add_bad(self, source: str, errors: Iterable[BadRecord]) -> None:
    """Counts and lists records that could not be used.

    Raises:
      TooManyBadRecords: the source's bad fraction exceeds the limit.
    """
    with self._lock:
      for error in errors:
        for name in ("reads", "bad", f"bad/{error.reason}"):
          self._counts[f"{source}/{name}"] += 1
        self._list(source, error)
        self._check_share(source, error)

  def list_faults(self, source: str, faults: Iterable[BadRecord]) -> None:
    """Lists what a new run's source left out when it was opened."""
    with self._lock:
      if not self._is_resumed:
        for fault in faults:
          self._list(source, fault)

  def counts(self) -> dict[str, int]:
    """E.g. {"web/reads": 9, "web/bad": 1, "web/bad/bad_json": 1}.

    Also "<source>/truncated_texts", "<source>/truncated_tokens",
    "<source>/texts_with_unknown_words", "<source>/animations", of which the
    first frame was read, and "unlisted_bad_records": those beyond the file's
    last line.
    """
    with self._lock:
      return dict(self._counts)

  def _list(self, source: str, error: BadRecord) -> None:
    if self._num_lines >= self._max_lines:
      self._counts["unlisted_bad_records"] += 1
      return
    line = {"source": source, **error.facts()}
    with self._path.open("a", encoding="ascii") as file:
      file.write(json.dumps(line) + "\n")
    self._num_lines += 1

  def _check_share(self, source: str, error: BadRecord) -> None:
    reads = self._counts[f"{source}/reads"]
    bad = self._counts[f"{source}/bad"]
    if reads >= self._min_reads and bad > self._max_bad_share * reads:
      raise TooManyBadRecords(
        f"{bad} of {reads} records of {source!r} could not be read, the last "
        f"for {error.reason}, and at most {self._max_bad_share:.2%} may fail: "
        f"see {self._path}, then correct or filter the source, or raise "
        "data.max_bad_share"
      )


def _num_lines(path: pathlib.Path) -> int:
  if not path.exists():
    return 0
  with path.open("rb") as file:
    return sum(1 for _ in file)
