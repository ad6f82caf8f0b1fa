"""The files of a tar index are refused unless every part fits."""

import json
import math
import os

import numpy as np
import pytest

from ddit_jax.data.image_header import Filters
from ddit_jax.data.sources.paths import FileFacts
from ddit_jax.data.sources.tar_index import (
  IndexReport,
  read_index,
  write_index,
)
from ddit_jax.data.sources.tar_samples import RECORD, SampleRules

RULES = SampleRules(filters=Filters(max_ratio=math.inf))
REPORT = IndexReport(
  removed={"ratio": 2},
  named={"ratio": ["a.tar:1", "ä:2"]},
  damaged={"b.tar": "cut off"},
  num_other=3,
)
SHARDS = [FileFacts(f"{name}.tar", 10_240, n) for n, name in enumerate("abc")]
RECORDS = np.arange(5 * 8, dtype="<u4").view(RECORD)


def write(path, *, counts=(2, 0, 3)):
  path.with_suffix(".records").write_bytes(RECORDS.tobytes())
  write_index(path, SHARDS, RULES, counts=counts, report=REPORT)
  return path


@pytest.fixture
def path(tmp_path):
  return write(tmp_path / "i.tarindex")


def test_what_was_written_is_read(path):
  index = read_index(path, SHARDS, RULES)
  np.testing.assert_array_equal(index.records, RECORDS)
  np.testing.assert_array_equal(index.ends, [2, 2, 5])
  assert index.report == REPORT


def test_records_stay_on_disk(path):
  index = read_index(path, SHARDS, RULES)
  assert isinstance(index.records.base, np.memmap)
  assert not index.records.flags.writeable


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"num_bytes": 1}, "1 of 3 shards have changed since, first b.tar"),
    ({"mtime_ns": 99}, "1 of 3 shards have changed since, first b.tar"),
    ({"name": "x.tar"}, "1 of 3 shards have changed since, first x.tar"),
  ],
)
def test_changed_shards_are_noticed(change, message, path):
  now = [SHARDS[0], SHARDS[1]._replace(**change), SHARDS[2]]
  with pytest.raises(ValueError, match=message):
    read_index(path, now, RULES)


def test_other_shards_or_rules_are_refused(path):
  with pytest.raises(ValueError, match="other shards or filters"):
    read_index(path, SHARDS[:2], RULES)
  with pytest.raises(ValueError, match="other shards or filters"):
    read_index(path, SHARDS, SampleRules())


@pytest.mark.parametrize(
  "counts", [(2, 0, 4), (2, 3), (6, -4, 3), (2.0, 0.0, 3.0), "abc", [[5]] * 3]
)
def test_counts_that_do_not_add_up_are_refused(counts, tmp_path):
  path = write(tmp_path / "i.tarindex", counts=counts)
  with pytest.raises(ValueError, match="damaged"):
    read_index(path, SHARDS, RULES)


@pytest.mark.parametrize("suffix", [".tarindex", ".records"])
def test_a_flipped_bit_is_noticed_or_changes_nothing(suffix, path):
  """The digits of an escaped letter may be capitals, too."""
  file, num_harmless = path.with_suffix(suffix), 0
  data = file.read_bytes()
  for bit in range(8 * len(data)):
    damaged = bytearray(data)
    damaged[bit // 8] ^= 1 << bit % 8
    file.write_bytes(damaged)
    try:
      index = read_index(path, SHARDS, RULES)
    except ValueError:
      continue
    num_harmless += 1
    assert index.report == REPORT
    np.testing.assert_array_equal(index.records, RECORDS)
    np.testing.assert_array_equal(index.ends, [2, 2, 5])
  assert num_harmless < 9


def test_every_cut_is_noticed(path):
  for file in (path, path.with_suffix(".records")):
    data = file.read_bytes()
    for stop in range(0, len(data), 7):
      file.write_bytes(data[:stop])
      with pytest.raises(ValueError):
        read_index(path, SHARDS, RULES)
    file.write_bytes(data)


@pytest.mark.parametrize(
  "change",
  [
    {"version": 1},
    {"shards": [7]},
    {"shards": [["a.tar", 1]] * 3},
    {"report": {}, "shards": []},
    {"report": {"x": 1}},
    {"counts": None},
    {"counts": [1, [2], 2]},
  ],
)
def test_damaged_contents_are_refused(change, path):
  path.write_text(json.dumps(json.loads(path.read_text()) | change))
  with pytest.raises(ValueError):
    read_index(path, SHARDS, RULES)


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"no", b"[" * 100_000])
def test_other_files_are_refused(data, path):
  path.write_bytes(data)
  with pytest.raises(ValueError):
    read_index(path, SHARDS, RULES)


@pytest.mark.parametrize("suffix", [".tarindex", ".records"])
def test_a_pipe_is_refused_before_it_is_opened(suffix, path):
  path.with_suffix(suffix).unlink()
  os.mkfifo(path.with_suffix(suffix))
  with pytest.raises(ValueError, match="is not a regular file"):
    read_index(path, SHARDS, RULES)
