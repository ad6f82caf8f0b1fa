"""Prepared shards: read back in any order, from threads, and damaged."""

import concurrent.futures
import hashlib
import random

import pytest
from array_record.python.array_record_module import ArrayRecordWriter

from ddit_jax.data.example import BadRecord, Example, encode
from ddit_jax.data.prepare.prepare import EXAMPLES as FORMAT
from ddit_jax.data.prepare.shards import Manifest, Shard, write_dataset
from ddit_jax.data.sources.array_record import open_array_record

COUNTS = (40, 1, 0, 30)
EXAMPLES = [
  Example(
    record_id=f"tar:{i}",
    image=random.Random(i).randbytes(3_000),
    texts=(f"text {i}",),
  )
  for i in range(sum(COUNTS))
]


def write_shard(folder, name, records) -> Shard:
  """A shard by the library's own writer."""
  writer = ArrayRecordWriter(str(folder / name), "group_size:1")
  for record in records:
    writer.write(record)
  writer.close()
  data = (folder / name).read_bytes()
  return Shard(
    name=name,
    num_records=len(records),
    num_bytes=len(data),
    blake2b=hashlib.blake2b(data, digest_size=16).hexdigest(),
  )


@pytest.fixture
def folder(tmp_path):
  folder = tmp_path / "set"
  folder.mkdir()
  shards, start = [], 0
  for number, count in enumerate(COUNTS):
    records = [encode(e) for e in EXAMPLES[start : start + count]]
    shards.append(write_shard(folder, f"p-{number}.array_record", records))
    start += count
  write_dataset(
    folder,
    FORMAT,
    Manifest(
      shards=tuple(shards),
      counts={},
      removed={"ratio": 3, "short_side": 0},
      bad_records={"missing_file": 2},
      source={"name": "tar", "fingerprint": "f", "num_records": 73},
      options={},
    ),
  )
  return folder


def test_every_example_comes_back_in_order(folder):
  source = open_array_record("train", path=str(folder))
  assert [source[i] for i in range(len(source))] == EXAMPLES
  assert source.name == "train"
  assert source.removed == {"ratio": 3, "short_side": 0, "missing_file": 2}
  for index in (-1, len(source)):
    with pytest.raises(IndexError, match="train has 71 records"):
      source[index]


def test_threads_read_at_once(folder):
  source = open_array_record("train", path=str(folder))
  order = random.Random(0).choices(range(len(EXAMPLES)), k=500)
  with concurrent.futures.ThreadPoolExecutor(8) as threads:
    read = list(threads.map(source.__getitem__, order))
  assert read == [EXAMPLES[i] for i in order]


def test_a_pattern_chooses_shards(folder, tmp_path):
  source = open_array_record("few", path=f"{folder}/p-[01]*")
  assert [source[i] for i in range(len(source))] == EXAMPLES[:41]
  whole = open_array_record("all", path=str(tmp_path / "*" / "*"))
  assert len(whole) == len(EXAMPLES)
  assert whole.fingerprint() != source.fingerprint()


def test_the_fingerprint_moves_with_the_folder(folder, tmp_path):
  before = open_array_record("a", path=str(folder)).fingerprint()
  moved = folder.rename(tmp_path / "elsewhere")
  assert open_array_record("b", path=str(moved)).fingerprint() == before


def test_a_flipped_bit_spoils_one_record(folder):
  # The image bytes lie in the file as they are, so the place is known.
  path = folder / "p-0.array_record"
  data = bytearray(path.read_bytes())
  place = data.find(EXAMPLES[7].image[100:200])
  assert place > 0
  data[place] ^= 1
  path.write_bytes(data)
  source = open_array_record("train", path=str(folder))
  bad = []
  for index, example in enumerate(EXAMPLES):
    try:
      assert source[index] == example
    except BadRecord as error:
      bad.append((index, error.reason, error.record_id))
  assert bad == [(7, "corrupt_shard", "p-0.array_record:7")]
  with pytest.raises(ValueError, match=r"p-0\.array_record was changed or dam"):
    open_array_record("train", path=str(folder), check_hashes=True)


def test_a_path_is_a_text():
  with pytest.raises(ValueError, match="must be a folder or a pattern, not 3"):
    open_array_record("train", path=3)


def test_hashes_of_good_shards_pass(folder):
  source = open_array_record("train", path=str(folder), check_hashes=True)
  assert len(source) == len(EXAMPLES)


@pytest.mark.parametrize("path", ["", "/p-*"])
def test_missing_extra_and_cut_shards_are_named(folder, path):
  last = folder / "p-3.array_record"
  data = last.read_bytes()
  last.write_bytes(data[:-1])
  with pytest.raises(ValueError, match=f"p-3.array_record has {len(data) - 1}"):
    open_array_record("train", path=f"{folder}{path}")
  last.rename(folder / "p-4.array_record")
  with pytest.raises(ValueError, match=r"p-3\.array_record is missing, p-4"):
    open_array_record("train", path=f"{folder}{path}")


def test_records_of_another_kind_are_bad_records(tmp_path):
  shard = write_shard(tmp_path, "a.array_record", [b"", b"something else"])
  dataset = Manifest(
    shards=(shard,),
    removed={},
    bad_records={},
    counts={},
    source={},
    options={},
  )
  write_dataset(tmp_path, FORMAT, dataset)
  source = open_array_record("other", path=str(tmp_path))
  for index in range(2):
    with pytest.raises(BadRecord, match=f"a.array_record:{index}: wrong_len"):
      source[index]


@pytest.mark.parametrize(
  ("path", "message"),
  [
    ("none", "matches no folder and no"),
    ("set/*.tar", "matches no folder and no"),
    ("", "has no dataset.json"),
    ("set/p-2*", "hold no records"),
  ],
)
def test_paths_that_lead_nowhere(folder, tmp_path, path, message):
  with pytest.raises(ValueError, match=message):
    open_array_record("train", path=str(tmp_path / path))
