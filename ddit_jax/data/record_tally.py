"""Counts of a run over many records by several threads, and its limit."""

import collections
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

# (records looked at, records in all)
Progress = Callable[[int, int], None]
# {"index", "record_id", "reason", "detail"}
BadEntry = Mapping[str, Any]


class TooManyBadRecords(Exception):
  """More records are bad than the run allows."""


class RecordTally:
  """How many records were looked at, and which were bad."""

  def __init__(
    self, num_records: int, *, max_bad_rate: float, progress: Progress | None
  ):
    """Starts at zero.

    Args:
      num_records: of the whole run.
      max_bad_rate: share of them that may be bad.
      progress: called after every change, by one thread at a time.
    """
    self._num_records, self._num_done = num_records, 0
    self._num_allowed = int(max_bad_rate * num_records)
    self._progress = progress
    self._bad: list[BadEntry] = []
    self._lock = threading.Lock()

  def add(self, num_done: int, bad: Iterable[BadEntry] = ()) -> None:
    """Records that were looked at, and those of them that were bad.

    Raises:
      TooManyBadRecords: whatever the others are, the share is above the limit.
    """
    with self._lock:
      self._num_done += num_done
      self._bad.extend(bad)
      if len(self._bad) > self._num_allowed:
        raise TooManyBadRecords(
          f"{len(self._bad)} of {self._num_records} records are bad "
          f"({named_counts(self.reasons())}), more than the "
          f"{self._num_allowed} that are allowed"
        )
      if self._progress is not None:
        self._progress(self._num_done, self._num_records)

  def bad_records(self) -> list[BadEntry]:
    """All bad records so far, in the source's order."""
    return sorted(self._bad, key=lambda entry: entry["index"])

  def reasons(self) -> dict[str, int]:
    """Reason to number of bad records, the most frequent first."""
    counts = collections.Counter(entry["reason"] for entry in self._bad)
    return dict(counts.most_common())


def named_counts(counts: Mapping[str, int]) -> str:
  """ "ratio 12, short_side 3"."""
  return ", ".join(f"{name} {count:,}" for name, count in counts.items())
