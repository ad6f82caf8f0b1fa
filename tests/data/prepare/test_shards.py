"""Shard files and dataset.json: written, read back, damaged in every way."""

import hashlib
import json
import subprocess
import sys

import pytest
from array_record.python.array_record_module import ArrayRecordReader

from ddit_jax.data.prepare.shards import (
  FolderFormat,
  Manifest,
  Shard,
  ShardFile,
  check_shards,
  plan_differences,
  read_dataset,
  shards_bytes,
  shards_fingerprint,
  write_dataset,
)
from ddit_jax.errors import InputError
from ddit_jax.json_files import file_hash

NAMES = ("s-0.array_record", "s-1.array_record")
CONTENTS = (b"first", b"the second")


def listed(index: int) -> Shard:
  data = CONTENTS[index]
  return Shard(
    name=NAMES[index],
    num_records=10 + index,
    num_bytes=len(data),
    blake2b=hashlib.blake2b(data, digest_size=16).hexdigest(),
  )


FORMAT = FolderFormat(name="tiny", version=1, command="ddit prepare")
MANIFEST = Manifest(
  shards=(listed(0), listed(1)),
  removed={"ratio": 3},
  bad_records={"missing_file": 1},
  counts={"cut": 2},
  source={"name": "tiny", "fingerprint": "f", "num_records": 22},
  options={"short_side": None},
)


@pytest.fixture
def folder(tmp_path):
  for name, data in zip(NAMES, CONTENTS, strict=True):
    (tmp_path / name).write_bytes(data)
  write_dataset(tmp_path, FORMAT, MANIFEST)
  return tmp_path


def test_what_is_written_is_read(folder):
  read = read_dataset(folder, FORMAT)
  assert read == MANIFEST
  assert (read.num_records, read.num_bytes) == (21, 15)
  body = json.loads((folder / "dataset.json").read_text())
  assert (body["num_records"], body["num_bytes"]) == (21, 15)
  for shard in read.shards:
    assert file_hash(folder / shard.name) == shard.blake2b


def test_the_fingerprint_is_of_the_records_only():
  renamed = Shard(
    name="other.array_record",
    num_records=10,
    num_bytes=5,
    blake2b=listed(0).blake2b,
  )
  prints = [
    shards_fingerprint(shards)
    for shards in [[listed(0)], [renamed], [listed(1)], MANIFEST.shards]
  ]
  assert prints[0] == prints[1]
  assert len(set(prints)) == 3


def test_shards_are_compared_with_the_list(folder):
  check_shards(folder, MANIFEST.shards, found=NAMES)
  with pytest.raises(ValueError, match=r"s-1\.array_record is missing: copy"):
    check_shards(folder, MANIFEST.shards, found=NAMES[:1])
  with pytest.raises(ValueError, match=r"s-1\.array_record is not listed"):
    check_shards(folder, MANIFEST.shards[:1], found=NAMES)
  (folder / NAMES[1]).write_bytes(b"the")
  with pytest.raises(ValueError, match="has 3 bytes instead of 10"):
    check_shards(folder, MANIFEST.shards, found=NAMES)
  with pytest.raises(ValueError, match="y is not listed and 1 more"):
    check_shards(folder, MANIFEST.shards[:1], found=["x", "y", "z"])


def test_a_folder_without_the_file_is_not_finished(tmp_path):
  with pytest.raises(ValueError, match="run ddit prepare again to finish it"):
    read_dataset(tmp_path, FORMAT)


def with_shard(body, **changes):
  first, second = body["shards"]
  return body | {"shards": [first | changes, second]}


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (lambda b: b | {"format": "x"}, "is 'x' version 1, this program reads"),
    (lambda b: b | {"format_version": 2}, "version 2, this program reads"),
    (lambda b: {}, "is None version None"),
    (lambda b: b | {"shards": None}, "is damaged"),
    (lambda b: b | {"shards": [{"name": NAMES[0]}]}, "is damaged"),
    (lambda b: b | {"shards": b["shards"] * 2}, "listed twice"),
    (lambda b: b | {"counts": 7}, "counts is not a mapping"),
    (lambda b: b | {"removed": []}, "removed is not a mapping"),
    (lambda b: b | {"bad_records": {"x": -1}}, "-1 is not a count"),
    (lambda b: b | {"bad_records": {"x": True}}, "True is not a count"),
    (
      lambda b: with_shard(b, name="../s.array_record"),
      "not the name of a shard",
    ),
    (lambda b: with_shard(b, name="/etc/passwd"), "not the name of a shard"),
    (lambda b: with_shard(b, name=7), "is damaged"),
    (lambda b: with_shard(b, num_records="7"), "'7' is not a count"),
    (lambda b: with_shard(b, blake2b=None), "has no hash"),
    (lambda b: with_shard(b, num_records=11), "was changed"),
    (lambda b: b | {"fingerprint": "0"}, "was changed"),
    (lambda b: {k: v for k, v in b.items() if k != "source"}, "KeyError"),
    (lambda b: {k: v for k, v in b.items() if k != "counts"}, "KeyError"),
    (lambda b: {k: v for k, v in b.items() if k != "blake2b"}, "its hash is"),
    (lambda b: b | {"removed": {"ratio": 9}}, "its hash is another one"),
    (lambda b: b | {"blake2b": "0"}, "its hash is another one"),
  ],
)
def test_damage_is_a_line_with_the_way_out(folder, change, message):
  path = folder / "dataset.json"
  path.write_text(json.dumps(change(json.loads(path.read_text()))))
  with pytest.raises(ValueError, match=message) as caught:
    read_dataset(folder, FORMAT)
  assert "again" in str(caught.value) and "\n" not in str(caught.value)


def test_equal_datasets_have_equal_files(folder, tmp_path_factory):
  other = tmp_path_factory.mktemp("other")
  write_dataset(other, FORMAT, MANIFEST)
  files = [path / "dataset.json" for path in (folder, other)]
  assert files[0].read_bytes() == files[1].read_bytes()


def test_differences_are_named():
  found = {"source": "a", "latents": {"size": 8, "hash": "v"}, "features": None}
  wanted = {"source": "a", "latents": {"size": 16, "hash": "v"}, "more": [1]}
  assert plan_differences(found, found) == []
  assert plan_differences(found, wanted) == [
    "latents.size 8 instead of 16",
    "more None instead of [1]",
  ]


def write_file(path, records):
  with ShardFile(path) as writer:
    for record in records:
      writer.write(record)
  return path.read_bytes()


def test_records_come_back_and_files_are_equal(tmp_path):
  records = [b"one", b"", b"three" * 10_000]
  files = [write_file(tmp_path / name, records) for name in "ab"]
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
  written = len(write_file(tmp_path / "a", [bytes(size)] * count))
  foreseen = shards_bytes(count, num_shards=1, bytes_per_record=size)
  # The file's end is padded to the next 64 KiB, twice.
  assert written <= foreseen <= 1.02 * written + 2 * 65_536 + 15 * count


def test_a_place_that_cannot_be_written(tmp_path):
  with pytest.raises(InputError, match=r"cannot be written .*make room"):
    write_file(tmp_path / "none" / "a", [b"x"])


def test_the_first_error_is_kept(tmp_path):
  with pytest.raises(KeyError), ShardFile(tmp_path / "none" / "a"):
    raise KeyError


def test_a_full_disk_is_noticed(tmp_path):
  """A limit on file size stands for the disk; the rest is real."""
  program = (
    "import pathlib, resource\n"
    "from ddit_jax.data.prepare.shards import ShardFile\n"
    "resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))\n"
    f"with ShardFile(pathlib.Path({str(tmp_path / 'a')!r})) as writer:\n"
    "  for _ in range(20):\n"
    "    writer.write(bytes(50_000))\n"
  )
  done = subprocess.run(
    [sys.executable, "-c", program], capture_output=True, text=True
  )
  assert "InputError" in done.stderr and "File too large" in done.stderr
