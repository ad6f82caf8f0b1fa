"""WebDataset shards are read in place, by any thread, or refused by record."""

import json
import os
import tarfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from ddit_jax.data.example import BadRecord, Example
from ddit_jax.data.sources import paths
from ddit_jax.data.sources.webdataset import open_webdataset
from tests.source_files import encoded, sample, write_shard, write_tar

OFF = {"min_short_side": 0, "drop_empty_captions": False}
IMAGE = encoded(300, 400)


def opened(path, **options):
  return open_webdataset("set", path=str(path), **{"workers": 1} | options)


def only(members: dict, tmp_path, **options) -> Example:
  """The one example of a shard with these members."""
  path = write_tar(tmp_path / "a.tar", members)
  source = opened(path, filters=OFF, **options)
  assert len(source) == 1
  return source[0]


def test_examples_are_the_members(tmp_path):
  for number, keys in enumerate((["0", "1"], ["2"], ["3", "4", "5"])):
    write_shard(tmp_path / f"train-{number}.tar", keys)
  source = opened(tmp_path / "train-{0..2}.tar")
  assert (source.name, len(source), source.removed) == ("set", 6, {})
  expected = encoded(300, 300)
  for index in range(6):
    assert source[index] == Example(
      record_id=f"train-{(0, 0, 1, 2, 2, 2)[index]}.tar:{index}",
      image=expected,
      texts=(str(index),),
    )
  assert source[np.int64(3)] == source[3]


@pytest.mark.parametrize("index", [-1, 1, 2**70])
def test_indexes_outside_are_refused(index, tmp_path):
  source = opened(write_shard(tmp_path / "a.tar", ["0"]))
  with pytest.raises(IndexError, match="set has 1 records"):
    source[index]


@pytest.mark.parametrize(
  ("members", "texts", "rewritten"),
  [
    ({"x.txt": " a dog \n"}, ("a dog",), ()),
    ({"x.txt": "\ufeffa dog\r\n"}, ("a dog",), ()),
    ({"x.json": {"caption": "a dog", "url": "u"}}, ("a dog",), ()),
    ({"x.json": {"caption": ["a", " ", "b"]}}, ("a", "b"), ()),
    (
      {"x.json": {"caption": "from json", "re_caption": "long"}, "x.txt": "a"},
      ("a",),
      ("long",),
    ),
    ({"x.json": {"caption": "from json"}, "x.txt": " "}, ("from json",), ()),
    ({"x.txt": "a", "x.recap.txt": "long"}, ("a",), ("long",)),
    ({"x.json": {"re_caption": "long"}}, ("long",), ("long",)),
    ({"x.txt": "", "x.recap.txt": "long"}, ("long",), ("long",)),
    ({"x.txt": ""}, ("",), ()),
    ({"x.json": {}}, ("",), ()),
  ],
)
def test_captions_come_from_text_or_json(members, texts, rewritten, tmp_path):
  files = {
    name: (value if isinstance(value, str) else json.dumps(value)).encode()
    for name, value in members.items()
  }
  example = only({"x.jpg": IMAGE} | files, tmp_path)
  assert (example.image, example.prompt) == (IMAGE, "")
  assert (example.texts, example.rewritten) == (texts, rewritten)


def test_keys_of_captions_can_be_chosen(tmp_path):
  fields = json.dumps({"alt": "a", "blip": "b"}).encode()
  example = only(
    {"x.jpg": IMAGE, "x.json": fields},
    tmp_path,
    caption_key="alt",
    rewritten_key="blip",
  )
  assert (example.texts, example.rewritten) == (("a",), ("b",))


def test_record_ids_name_shard_folder_and_key(tmp_path):
  (tmp_path / "00").mkdir()
  (tmp_path / "01").mkdir()
  write_shard(tmp_path / "00" / "a.tar", ["deep/er/0"])
  write_tar(tmp_path / "01" / "a.tar", sample("k" * 150), tarfile.GNU_FORMAT)
  source = opened(tmp_path / "*" / "a.tar")
  assert source[0].record_id == "00/a.tar:deep/er/0"
  # A header holds 100 bytes of a name.
  assert source[1].record_id in ("01/a.tar:?", f"01/a.tar:{'k' * 100}")


def test_filters_are_counted(tmp_path):
  members = sample("0") | sample("1", side=100) | sample("2", caption=" ")
  path = write_tar(tmp_path / "a.tar", members)
  source = opened(path)
  assert len(source) == 1
  assert source.removed == {"empty_caption": 1, "short_side": 1}
  loose = opened(path, filters={"min_short_side": 100})
  assert loose.removed == {"empty_caption": 1} and len(loose) == 2
  assert source.fingerprint() != loose.fingerprint()
  assert source.fingerprint() == opened(path).fingerprint()


def test_threads_read_the_same(tmp_path, monkeypatch):
  """With fewer files open at a time than there are shards."""
  monkeypatch.setattr("ddit_jax.data.sources.paths._MAX_OPEN", 3)
  for number in range(10):
    write_shard(tmp_path / f"{number}.tar", [f"{number}{k}" for k in range(5)])
  source = opened(tmp_path)
  order = np.random.default_rng(0).integers(0, 50, 400).tolist()
  with ThreadPoolExecutor(8) as pool:
    found = list(pool.map(source.__getitem__, order))
  assert [e.texts[0] for e in found] == [f"{i // 5}{i % 5}" for i in order]
  descriptors = os.listdir("/proc/self/fd")
  links = (os.path.realpath(f"/proc/self/fd/{fd}") for fd in descriptors)
  shards = {str(path) for path in tmp_path.glob("*.tar")}
  num_open = sum(link in shards for link in links)
  assert num_open == 3


def bad(source, index=0) -> str:
  with pytest.raises(BadRecord) as caught:
    source[index]
  return caught.value.reason


def test_a_shard_that_vanishes_costs_its_records(tmp_path):
  write_shard(tmp_path / "a.tar", ["0"])
  write_shard(tmp_path / "b.tar", ["1"])
  source = opened(tmp_path)
  (tmp_path / "a.tar").unlink()
  assert bad(source) == "missing_file" and source[1].texts == ("1",)


def test_a_shard_of_another_size_is_corrupt(tmp_path):
  path = write_shard(tmp_path / "a.tar", ["0", "1"])
  source = opened(path)
  path.write_bytes(path.read_bytes()[:-512])
  assert bad(source) == "corrupt_shard"


def test_an_overwritten_shard_is_corrupt(tmp_path):
  path = write_shard(tmp_path / "a.tar", ["0", "1"])
  source = opened(path)
  path.write_bytes(b"x" * path.stat().st_size)
  assert bad(source) == "corrupt_shard"


def test_a_shard_that_shrinks_while_open_is_corrupt(tmp_path):
  path = write_shard(tmp_path / "a.tar", ["0", "1"])
  source = opened(path)
  assert source[0].texts == ("0",)
  os.truncate(path, 2048)
  assert bad(source, 1) == "corrupt_shard"


@pytest.mark.parametrize(
  ("name", "data", "reason"),
  [
    ("x.txt", b"\xff\xff", "bad_text"),
    ("x.json", b"{", "bad_json"),
    ("x.json", b"[" * 100_000, "bad_json"),
    ("x.json", b'{"caption": 7}', "bad_text"),
    ("x.json", b'{"caption": "\\ud800"}', "bad_text"),
  ],
)
def test_texts_that_the_index_did_not_look_at_are_bad_records(
  name, data, reason, tmp_path
):
  path = write_tar(tmp_path / "a.tar", {"x.jpg": IMAGE, name: data})
  off = OFF | {"max_ratio": float("inf")}
  assert bad(opened(path, filters=off)) == reason


def test_the_index_lies_where_it_may(tmp_path, monkeypatch):
  shards, cache = tmp_path / "shards", tmp_path / "cache"
  shards.mkdir()
  write_shard(shards / "a.tar", ["0"])
  own = tmp_path / "own" / "place"
  opened(shards, index_folder=str(own))
  assert len(list(own.glob("*.tarindex"))) == 1
  assert os.listdir(shards) == ["a.tar"]
  monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
  monkeypatch.setattr(paths.os, "access", lambda path, mode: False)
  assert len(opened(shards)) == 1
  indexes = cache / "ddit_jax" / "tar_indexes"
  assert len(list(indexes.glob("*.tarindex"))) == 1
  assert os.listdir(shards) == ["a.tar"]
  monkeypatch.undo()
  opened(shards)
  assert len(os.listdir(shards)) == 3


def test_shards_that_are_not_files_are_refused(tmp_path):
  os.mkfifo(tmp_path / "a.tar")
  with pytest.raises(ValueError, match=r"a\.tar is not a regular file"):
    opened(tmp_path / "a.tar")


def test_wrong_settings_are_refused(tmp_path):
  path = write_shard(tmp_path / "a.tar", ["0"])
  with pytest.raises(ValueError, match="workers must be a positive number"):
    opened(path, workers=0)
  with pytest.raises(ValueError, match="did you mean 'max_ratio'"):
    opened(path, filters={"max_ration": 3})
  with pytest.raises(ValueError, match="not a file, a folder or a pattern"):
    opened(tmp_path / "b.tar")
  with pytest.raises(ValueError, match="could not be built or read"):
    opened(path, index_folder=str(path))
