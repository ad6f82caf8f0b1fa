"""The file of a tar index is refused unless every part fits."""

import dataclasses
import math
import os

import numpy as np
import pytest

from ddit_jax.data.image import Filters
from ddit_jax.data.sources.webdataset import (
  RECORD,
  Footer,
  IndexReport,
  SampleRules,
  Shard,
  plain_rules,
  read_index,
  write_footer,
)

RULES = SampleRules(filters=Filters(max_ratio=math.inf))
REPORT = IndexReport(
  removed={"ratio": 2},
  named={"ratio": ["a.tar:1", "ä:2"]},
  damaged={"b.tar": "cut off"},
  num_other=3,
  seconds=0.5,
)
SHARDS = [
  Shard(name=f"{name}.tar", num_bytes=10_240, mtime_ns=n)
  for n, name in enumerate("abc")
]
RECORDS = np.arange(5 * 8, dtype="<u4").view(RECORD)


def write(path, *, counts=(2, 0, 3), **changes):
  footer = Footer(
    rules=plain_rules(RULES), shards=SHARDS, counts=counts, report=REPORT
  )
  with open(path, "wb") as file:
    file.write(RECORDS.tobytes())
    write_footer(file, dataclasses.replace(footer, **changes))
  return path


def test_what_was_written_is_read(tmp_path):
  index = read_index(write(tmp_path / "i"), SHARDS, RULES)
  np.testing.assert_array_equal(index.records, RECORDS)
  np.testing.assert_array_equal(index.ends, [2, 2, 5])
  assert index.report == REPORT


def test_records_stay_on_disk(tmp_path):
  index = read_index(write(tmp_path / "i"), SHARDS, RULES)
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
def test_changed_shards_are_noticed(change, message, tmp_path):
  now = [SHARDS[0], dataclasses.replace(SHARDS[1], **change), SHARDS[2]]
  with pytest.raises(ValueError, match=message):
    read_index(write(tmp_path / "i"), now, RULES)


def test_other_shards_or_rules_are_refused(tmp_path):
  path = write(tmp_path / "i")
  with pytest.raises(ValueError, match="other shards or filters"):
    read_index(path, SHARDS[:2], RULES)
  with pytest.raises(ValueError, match="other shards or filters"):
    read_index(path, SHARDS, SampleRules())


@pytest.mark.parametrize(
  "counts", [(2, 0, 4), (2, 3), (6, -4, 3), (2.0, 0.0, 3.0), "abc", [[5]] * 3]
)
def test_counts_that_do_not_add_up_are_refused(counts, tmp_path):
  with pytest.raises(ValueError, match="damaged"):
    read_index(write(tmp_path / "i", counts=counts), SHARDS, RULES)


def test_every_cut_is_noticed(tmp_path):
  data = write(tmp_path / "i").read_bytes()
  for stop in range(0, len(data), 7):
    (tmp_path / "cut").write_bytes(data[:stop])
    with pytest.raises(ValueError):
      read_index(tmp_path / "cut", SHARDS, RULES)


def with_footer(body: bytes) -> bytes:
  return body + len(body).to_bytes(8, "little") + b"ddit tar index\0\1"


@pytest.mark.parametrize(
  "data",
  [
    with_footer(b"{}"),
    with_footer(b"[]"),
    with_footer(b"not json"),
    with_footer(b"[" * 100_000),
    with_footer(b'{"version": 2}'),
    with_footer(b'{"version": 1, "shards": [7], "report": {}}'),
    (2**63).to_bytes(8, "little") + b"ddit tar index\0\1",
    with_footer(b"{}")[:-1] + b"\2",
    b"x" + with_footer(b"{}"),
  ],
)
def test_damaged_footers_are_refused(data, tmp_path):
  (tmp_path / "i").write_bytes(data)
  with pytest.raises(ValueError):
    read_index(tmp_path / "i", SHARDS, RULES)


def test_a_pipe_is_refused_before_it_is_opened(tmp_path):
  os.mkfifo(tmp_path / "x.tarindex")
  with pytest.raises(ValueError, match="it is no regular file"):
    read_index(tmp_path / "x.tarindex", SHARDS, RULES)
