"""The tally adds up, sorts, and stops at the limit."""

import pytest

from ddit_jax.data.bad_records import (
  RecordTally,
  TooManyBadRecords_of_record_tally,
  named_counts,
)


def bad(index, reason="bad_json"):
  return {"index": index, "record_id": f"r{index}", "reason": reason}


def test_counts_reasons_and_order():
  seen = []
  tally = RecordTally(
    10, max_bad_rate=0.3, progress=lambda *counts: seen.append(counts)
  )
  tally.add(4, [bad(7), bad(2, "bad_text")])
  tally.add(1)
  tally.add(1, [bad(0)])
  assert seen == [(4, 10), (5, 10), (6, 10)]
  assert [entry["index"] for entry in tally.bad_records()] == [0, 2, 7]
  assert list(tally.reasons().items()) == [("bad_json", 2), ("bad_text", 1)]


@pytest.mark.parametrize(
  ("num_records", "rate", "allowed"),
  [(100, 0.01, 1), (99, 0.01, 0), (1000, 0.01, 10), (5, 1.0, 5), (5, 0.0, 0)],
)
def test_the_limit_is_a_share_of_all_records(num_records, rate, allowed):
  tally = RecordTally(num_records, max_bad_rate=rate, progress=None)
  for index in range(allowed):
    tally.add(1, [bad(index)])
  with pytest.raises(
    TooManyBadRecords_of_record_tally,
    match=rf"^{allowed + 1} of {num_records} records are bad \(bad_json "
    rf"{allowed + 1}\), more than the {allowed} that are allowed$",
  ):
    tally.add(1, [bad(allowed)])
  assert len(tally.bad_records()) == allowed + 1


def test_counts_as_people_read_them():
  assert named_counts({"ratio": 12345, "x": 0}) == "ratio 12,345, x 0"
  assert named_counts({}) == ""
