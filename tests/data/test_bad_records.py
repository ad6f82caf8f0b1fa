"""Bad records are counted, listed and, when too many, end the run."""

import concurrent.futures
import json
import pickle

import pytest

from ddit_jax.data.bad_records import (
  BadRecordLimit,
  ReadLog,
  TooManyBadRecords,
)
from ddit_jax.data.example import BadRecord, TrainingRecord


def bad(number=0, reason="bad_json", detail="line 3"):
  return BadRecord(reason, detail, f"record {number}")


def good(source, num_truncated=0, *errors):
  return TrainingRecord(
    arrays={}, num_truncated=num_truncated, source=source, bad=errors
  )


def lines(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def test_reads_are_counted_by_source_and_reason(tmp_path):
  log = ReadLog(tmp_path / "bad.jsonl")
  assert log.counts() == {}
  log.add(good("web", 0))
  log.add(good("web", 3))
  log.add(good("art", 4))
  log.add_bad("web", [bad(), bad(reason="missing_file")])
  assert log.counts() == {
    "web/reads": 4,
    "web/bad": 2,
    "web/bad/bad_json": 1,
    "web/bad/missing_file": 1,
    "web/truncated_texts": 1,
    "web/truncated_tokens": 3,
    "art/reads": 1,
    "art/truncated_texts": 1,
    "art/truncated_tokens": 4,
  }


def test_a_record_counts_the_bad_ones_that_it_replaces(tmp_path):
  log = ReadLog(tmp_path / "bad.jsonl")
  log.add(good("web", 2, bad(1), bad(2)))
  assert log.counts() == {
    "web/reads": 3,
    "web/bad": 2,
    "web/bad/bad_json": 2,
    "web/truncated_texts": 1,
    "web/truncated_tokens": 2,
  }
  log.add(TrainingRecord(arrays={}))
  assert log.counts()["web/reads"] == 3


def test_a_bad_record_survives_pickling():
  error = pickle.loads(pickle.dumps(bad(7)))
  assert vars(error) == vars(bad(7)) and str(error) == str(bad(7))


def test_bad_records_are_listed_one_a_line(tmp_path):
  path = tmp_path / "bad.jsonl"
  log = ReadLog(path)
  assert not path.exists()
  log.add_bad("web", [bad(7, detail='a "quote",\na break and \N{SNOWMAN}')])
  log.add_bad("art", [bad(8)])
  assert lines(path) == [
    {
      "source": "web",
      "record_id": "record 7",
      "reason": "bad_json",
      "detail": 'a "quote", a break and \N{SNOWMAN}',
    },
    {
      "source": "art",
      "record_id": "record 8",
      "reason": "bad_json",
      "detail": "line 3",
    },
  ]


def test_the_list_is_bounded_over_restarts_and_the_count_is_not(tmp_path):
  path = tmp_path / "bad.jsonl"
  for start in (0, 2):
    log = ReadLog(path, max_lines=3)
    log.add_bad("web", [bad(start)])
    log.add_bad("web", [bad(start + 1)])
  assert [line["record_id"] for line in lines(path)] == [
    "record 0",
    "record 1",
    "record 2",
  ]
  assert log.counts()["web/bad"] == 2
  assert log.counts()["unlisted_bad_records"] == 1


def test_a_source_above_its_share_stops_the_run(tmp_path):
  path = tmp_path / "bad.jsonl"
  log = ReadLog(path, BadRecordLimit(max_bad_share=0.1), min_reads=20)
  for _ in range(17):
    log.add(good("web", 0))
    # Another source's good records do not hide the bad ones.
    log.add(good("art", 0))
  log.add_bad("web", [bad(1)])
  log.add_bad("web", [bad(2)])  # 2 of 19, too early to judge
  log.add(good("web", 0))
  with pytest.raises(TooManyBadRecords) as caught:
    log.add_bad("web", [bad(3)])
  message = str(caught.value)
  assert message.startswith("3 of 21 records of 'web' could not be read")
  assert "at most 10.00% may fail" in message and str(path) in message
  assert isinstance(caught.value, ValueError)


def test_a_share_at_its_limit_is_allowed(tmp_path):
  log = ReadLog(tmp_path / "b", BadRecordLimit(max_bad_share=0.5), min_reads=2)
  for _ in range(10):
    log.add(good("web", 0))
    log.add_bad("web", [bad()])
  with pytest.raises(TooManyBadRecords):
    log.add_bad("web", [bad()])


def test_many_threads_lose_nothing(tmp_path):
  path = tmp_path / "bad.jsonl"
  log = ReadLog(path, BadRecordLimit(max_bad_share=1.0))

  def work(number):
    log.add(good("web", 1))
    log.add_bad("web", [bad(number)])

  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    list(pool.map(work, range(400)))
  assert log.counts()["web/reads"] == 800
  assert log.counts()["web/truncated_tokens"] == 400
  found = sorted(int(line["record_id"].split()[1]) for line in lines(path))
  assert found == list(range(400))


def test_a_senseless_limit_is_refused():
  message = r"max_bad_share must be in \[0, 1\], got 1.1"
  with pytest.raises(ValueError, match=message):
    BadRecordLimit(max_bad_share=1.1)
