"""Counts of the records that a writer of shards is done with."""

import collections
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple


class BadEntry(NamedTuple):
  """One line of bad_records.jsonl; `index` is the record's in its source.

  What the source itself left out as unusable has no index.
  """

  index: int
  record_id: str
  reason: str
  detail: str


# (records done, records in total)
RecordProgress = Callable[[int, int], None]


class TooManyBad(Exception):
  """More records are bad than the run allows."""


class Stopped(Exception):
  """Another thread failed."""


class Tally:
  """Counts finished and bad records; thread-safe."""

  def __init__(
    self, num_records: int, max_bad_rate: float, progress: RecordProgress | None
  ):
    self.bad: list[BadEntry] = []
    self.is_stopped = False
    self._num_records, self._num_done = num_records, 0
    self._num_allowed = int(max_bad_rate * num_records)
    self._progress, self._lock = progress, threading.Lock()

  def add(self, num_done: int, bad: Iterable[BadEntry] = ()) -> None:
    """Raises TooManyBad, or Stopped to end this thread's work."""
    with self._lock:
      if self.is_stopped:
        raise Stopped
      self._num_done += num_done
      self.bad.extend(bad)
      if len(self.bad) > self._num_allowed:
        raise TooManyBad(
          f"{len(self.bad)} of {self._num_records} records are bad "
          f"({named_counts(reasons_of(self.bad))}), more than the "
          f"{self._num_allowed} that are allowed"
        )
      if self._progress is not None:
        self._progress(self._num_done, self._num_records)


def reasons_of(bad: Iterable[BadEntry]) -> dict[str, int]:
  """Reason to number of bad records, most frequent first."""
  counts = collections.Counter(entry.reason for entry in bad)
  return dict(counts.most_common())


def named_counts(counts: Mapping[str, int]) -> str:
  """ "ratio 12, short_side 3"."""
  return ", ".join(f"{name} {count:,}" for name, count in counts.items())
