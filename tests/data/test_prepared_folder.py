"""dataset.json: written, read back, and damaged in every way."""

import hashlib
import json

import pytest

from ddit_jax.data.prepare import shards as prepared_folder
from ddit_jax.data.prepare.shards import PreparedDataset, Shard

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


DATASET = PreparedDataset(
  shards=(listed(0), listed(1)),
  removed={"ratio": 3},
  bad_records={"missing_file": 1},
  source={"name": "tiny", "fingerprint": "f", "num_records": 22},
  options={"short_side": None},
)


@pytest.fixture
def folder(tmp_path):
  for name, data in zip(NAMES, CONTENTS, strict=True):
    (tmp_path / name).write_bytes(data)
  prepared_folder.write_dataset(tmp_path, DATASET)
  return tmp_path


def test_what_is_written_is_read(folder):
  read = prepared_folder.read_dataset(folder)
  assert read == DATASET
  assert (read.num_records, read.num_bytes) == (21, 15)
  body = json.loads((folder / "dataset.json").read_text())
  assert (body["num_records"], body["num_bytes"]) == (21, 15)
  for shard in read.shards:
    assert prepared_folder.file_hash(folder / shard.name) == shard.blake2b


def test_the_fingerprint_is_of_the_records_only():
  renamed = Shard(
    name="other.array_record",
    num_records=10,
    num_bytes=5,
    blake2b=listed(0).blake2b,
  )
  prints = [
    prepared_folder.fingerprint(shards)
    for shards in [[listed(0)], [renamed], [listed(1)], DATASET.shards]
  ]
  assert prints[0] == prints[1]
  assert len(set(prints)) == 3


def test_shards_are_compared_with_the_list(folder):
  prepared_folder.check_shards(folder, DATASET.shards, found=NAMES)
  with pytest.raises(ValueError, match=r"s-1\.array_record is missing: copy"):
    prepared_folder.check_shards(folder, DATASET.shards, found=NAMES[:1])
  with pytest.raises(ValueError, match=r"s-1\.array_record is not listed"):
    prepared_folder.check_shards(folder, DATASET.shards[:1], found=NAMES)
  (folder / NAMES[1]).write_bytes(b"the")
  with pytest.raises(ValueError, match="has 3 bytes instead of 10"):
    prepared_folder.check_shards(folder, DATASET.shards, found=NAMES)
  with pytest.raises(ValueError, match="y is not listed and 1 more"):
    prepared_folder.check_shards(
      folder, DATASET.shards[:1], found=["x", "y", "z"]
    )


def test_a_folder_without_the_file_is_not_finished(tmp_path):
  with pytest.raises(ValueError, match="run ddit prepare again to finish it"):
    prepared_folder.read_dataset(tmp_path)


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
    (lambda b: b | {"removed": []}, "removed is no mapping"),
    (lambda b: b | {"bad_records": {"x": -1}}, "-1 is no count"),
    (lambda b: b | {"bad_records": {"x": True}}, "True is no count"),
    (lambda b: with_shard(b, name="../s.array_record"), "no name of a shard"),
    (lambda b: with_shard(b, name="/etc/passwd"), "no name of a shard"),
    (lambda b: with_shard(b, name=7), "is damaged"),
    (lambda b: with_shard(b, num_records="7"), "'7' is no count"),
    (lambda b: with_shard(b, blake2b=None), "has no hash"),
    (lambda b: with_shard(b, num_records=11), "was changed"),
    (lambda b: b | {"fingerprint": "0"}, "was changed"),
    (lambda b: {k: v for k, v in b.items() if k != "source"}, "KeyError"),
  ],
)
def test_damage_is_a_line_with_the_way_out(folder, change, message):
  path = folder / "dataset.json"
  path.write_text(json.dumps(change(json.loads(path.read_text()))))
  with pytest.raises(ValueError, match=message) as caught:
    prepared_folder.read_dataset(folder)
  assert "anew" in str(caught.value) and "\n" not in str(caught.value)


def test_equal_datasets_have_equal_files(folder, tmp_path_factory):
  other = tmp_path_factory.mktemp("other")
  prepared_folder.write_dataset(other, DATASET)
  files = [path / "dataset.json" for path in (folder, other)]
  assert files[0].read_bytes() == files[1].read_bytes()
