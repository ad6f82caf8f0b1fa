"""Counts of finished and bad records, and when they stop the work."""

import pytest

from ddit_jax.data.prepare.tally import (
  BadEntry,
  Stopped,
  Tally,
  TooManyBad,
  named_counts,
  reasons_of,
)


def bad(index: int, reason: str = "bad_text") -> BadEntry:
  return BadEntry(index, f"{index}.png", reason, "what was found")


def test_progress_counts_good_and_bad_records():
  seen = []
  tally = Tally(10, 0.5, lambda done, total: seen.append((done, total)))
  tally.add(4)
  tally.add(3, [bad(5)])
  assert seen == [(4, 10), (7, 10)] and tally.bad == [bad(5)]


def test_one_bad_record_over_the_rate_is_too_many():
  tally = Tally(100, 0.02, None)
  tally.add(50, [bad(1), bad(2, "bad_json")])
  message = r"3 of 100 records are bad \(bad_text 2, bad_json 1\), more than"
  with pytest.raises(TooManyBad, match=message):
    tally.add(1, [bad(3)])


def test_other_threads_are_stopped():
  tally = Tally(10, 1.0, None)
  tally.is_stopped = True
  with pytest.raises(Stopped):
    tally.add(1)
  assert tally.bad == []


def test_reasons_come_most_frequent_first():
  entries = [bad(1, "bad_json"), bad(2), bad(3)]
  assert list(reasons_of(entries).items()) == [("bad_text", 2), ("bad_json", 1)]
  assert named_counts({"ratio": 1200, "short_side": 3}) == (
    "ratio 1,200, short_side 3"
  )
