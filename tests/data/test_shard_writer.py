"""Shard files: readable, equal for equal records, of the size foreseen."""

import subprocess
import sys

import pytest
from array_record.python.array_record_module import ArrayRecordReader

from ddit_jax.data.prepare.shards import PrepareError, ShardWriter, shards_bytes


def write(path, records):
  with ShardWriter(path) as writer:
    for record in records:
      writer.write(record)
  return path.read_bytes()


def test_records_come_back_and_files_are_equal(tmp_path):
  records = [b"one", b"", b"three" * 10_000]
  files = [write(tmp_path / name, records) for name in "ab"]
  assert files[0] == files[1]
  reader = ArrayRecordReader(str(tmp_path / "a"))
  assert reader.read_all() == records
  # Grain warns of files of any other group size.
  assert "group_size:1," in reader.writer_options_string()


@pytest.mark.parametrize(
  ("count", "size"),
  [(0, 0), (1, 1), (5_000, 1), (5_000, 100), (400, 40_000), (40, 500_000)],
)
def test_the_foreseen_size_is_enough_and_not_far_off(tmp_path, count, size):
  written = len(write(tmp_path / "a", [bytes(size)] * count))
  foreseen = shards_bytes(count, num_shards=1, bytes_per_record=size)
  # The file's end is padded to the next 64 KiB, twice.
  assert written <= foreseen <= 1.02 * written + 2 * 65_536 + 15 * count


def test_a_place_that_cannot_be_written(tmp_path):
  with pytest.raises(PrepareError, match=r"cannot be written .*make room"):
    write(tmp_path / "none" / "a", [b"x"])


def test_the_first_error_is_kept(tmp_path):
  with pytest.raises(KeyError), ShardWriter(tmp_path / "none" / "a"):
    raise KeyError


def test_a_full_disk_is_noticed(tmp_path):
  """A limit on file size stands for the disk; the rest is real."""
  program = (
    "import pathlib, resource\n"
    "from ddit_jax.data.prepare.shards import ShardWriter\n"
    "resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))\n"
    f"with ShardWriter(pathlib.Path({str(tmp_path / 'a')!r})) as writer:\n"
    "  for _ in range(20):\n"
    "    writer.write(bytes(50_000))\n"
  )
  done = subprocess.run(
    [sys.executable, "-c", program], capture_output=True, text=True
  )
  assert "PrepareError" in done.stderr and "File too large" in done.stderr
