"""Preparing: everything arrives, bad records are counted, runs go on."""

import collections
import dataclasses
import io
import json
import logging
import os
import shutil
import threading

import pytest
from PIL import Image

from ddit_jax.data.example import BadRecord, Example, decode_example
from ddit_jax.data.prepare.prepare import (
  PrepareOptions,
  prepare,
)
from ddit_jax.data.sources.array_record import open_array_record
from ddit_jax.errors import InputError

FOUR_SHARDS = PrepareOptions(num_shards=4)


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
  """It guards against power loss, which is not tried here."""
  monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def png(width, height, shade=0) -> bytes:
  file = io.BytesIO()
  Image.new("RGB", (width, height), (shade, 9, 9)).save(file, "PNG")
  return file.getvalue()


@dataclasses.dataclass
class ListSource:
  """Examples from a list; an exception in it is raised."""

  items: list
  name: str = "list"
  removed: dict = dataclasses.field(default_factory=dict)
  version: str = "1"

  def __len__(self):
    return len(self.items)

  def __getitem__(self, index):
    item = self.items[index]
    if isinstance(item, BaseException):
      raise item
    return item

  def fingerprint(self):
    return f"{self.version}-{len(self)}"


def examples(count):
  return [
    Example(record_id=f"r{i}", image=png(8, 6, i % 256), texts=(f"text {i}",))
    for i in range(count)
  ]


def read(folder):
  source = open_array_record("prepared", path=str(folder), check_hashes=True)
  return [source[i] for i in range(len(source))]


def contents(folder):
  assert all(path.is_file() for path in folder.iterdir())
  return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_all_records_arrive_in_order(tmp_path):
  source = ListSource(examples(30), removed={"ratio": 5})
  dataset = prepare(source, tmp_path / "out", FOUR_SHARDS, threads=3)
  assert read(tmp_path / "out") == source.items
  assert dataset.num_records == 30
  assert (dataset.removed, dataset.bad_records) == ({"ratio": 5}, {})
  assert dataset.source == {
    "name": "list",
    "fingerprint": "1-30",
    "num_records": 30,
  }
  assert dataset.options == FOUR_SHARDS.as_json(30)
  names = [f"part-0000{i}-of-00004.array_record" for i in range(4)]
  assert [shard.name for shard in dataset.shards] == names
  assert sorted(contents(tmp_path / "out")) == [
    "bad_records.jsonl",
    "dataset.json",
    *names,
  ]
  assert (tmp_path / "out" / "bad_records.jsonl").read_bytes() == b""


def test_threads_do_not_change_a_byte(tmp_path):
  items = examples(40)
  items[7] = BadRecord("bad_json", "broken", "r7")
  items[33] = BadRecord("bad_text", "broken", "r33")
  written = []
  for threads in (1, 4):
    folder = tmp_path / str(threads)
    prepare(
      ListSource(items), folder, FOUR_SHARDS, threads=threads, max_bad_rate=0.1
    )
    written.append(contents(folder))
  assert written[0] == written[1]


def test_bad_records_are_left_out_counted_and_listed(tmp_path):
  items = examples(12)
  items[9] = BadRecord("missing_file", "a.jpg", "tar:9")
  items[2] = dataclasses.replace(items[2], texts=("\ud800",))
  items[5] = dataclasses.replace(items[5], image=b"GIF89a")
  options = PrepareOptions(num_shards=3, short_side=4)
  dataset = prepare(
    ListSource(items), tmp_path / "out", options, max_bad_rate=0.25
  )
  assert dataset.bad_records == {
    "missing_file": 1,
    "bad_text": 1,
    "not_an_image": 1,
  }
  kept = [i for i in range(12) if i not in (2, 5, 9)]
  assert [e.record_id for e in read(tmp_path / "out")] == [
    f"r{i}" for i in kept
  ]
  source = open_array_record("prepared", path=str(tmp_path / "out"))
  assert source.removed == dataset.bad_records
  lines = (tmp_path / "out" / "bad_records.jsonl").read_text().splitlines()
  entries = list(map(json.loads, lines))
  assert [entry["index"] for entry in entries] == [2, 5, 9]
  assert entries[2] == {
    "index": 9,
    "record_id": "tar:9",
    "reason": "missing_file",
    "detail": "a.jpg",
  }


def test_too_many_bad_records_stop_the_run_until_more_are_allowed(tmp_path):
  items = examples(20)
  items[3] = items[16] = BadRecord("bad_json", "broken", "r")
  source, out = ListSource(items), tmp_path / "out"
  with pytest.raises(
    InputError,
    match=r"list: 2 of 20 .*\(bad_json 2\), .* the 1 that are .*max_bad_rate$",
  ):
    prepare(source, out, FOUR_SHARDS, threads=1, max_bad_rate=0.05)
  assert not (out / "dataset.json").exists()
  assert len((out / "bad_records.jsonl").read_text().splitlines()) == 2
  prepare(source, out, FOUR_SHARDS, max_bad_rate=0.1)
  assert len(read(out)) == 18


def test_images_are_shrunk_and_filtered(tmp_path):
  sizes = [(64, 48), (100, 20), (16, 16), (32, 32)]
  items = [
    Example(record_id=f"{w}x{h}", image=png(w, h), texts=("a",))
    for w, h in sizes
  ]
  options = PrepareOptions(short_side=24, max_ratio=4.0, min_short_side=20)
  source = ListSource(items, removed={"ratio": 1, "empty_caption": 2})
  dataset = prepare(source, tmp_path / "out", options)
  assert dataset.removed == {"ratio": 2, "empty_caption": 2, "short_side": 1}
  read_sizes = {
    e.record_id: Image.open(io.BytesIO(e.image)).size
    for e in read(tmp_path / "out")
  }
  assert read_sizes == {"64x48": (32, 24), "32x32": (24, 24)}


def test_a_stopped_run_goes_on_and_gives_the_same_bytes(tmp_path):
  whole, source = tmp_path / "whole", ListSource(examples(40))
  prepare(source, whole, FOUR_SHARDS, threads=1)

  reads = collections.Counter()
  # Every record is read once for the estimate of the size; then the reading
  # stops within the last of four shards.
  reads_before_stop = 40 + 34

  class Counting(ListSource):
    def __getitem__(self, index):
      reads[index] += 1
      if reads.total() == reads_before_stop:
        raise KeyboardInterrupt
      return super().__getitem__(index)

  counting, out = Counting(source.items), tmp_path / "out"
  with pytest.raises(KeyboardInterrupt):
    prepare(counting, out, FOUR_SHARDS, threads=1)
  assert len(list(out.glob("*.array_record"))) == 3
  with pytest.raises(ValueError, match="ddit prepare again to finish it"):
    open_array_record("prepared", path=str(out))
  reads.clear()
  seen = []
  prepare(
    counting,
    out,
    FOUR_SHARDS,
    threads=1,
    progress=lambda *counts: seen.append(counts),
  )
  assert seen[2] == (30, 40) and seen[-1] == (40, 40)
  once = [i for i in range(40) if reads[i] == 1]
  assert once == list(range(30))
  assert contents(out) == contents(whole)
  # Finished: nothing is read again.
  reads.clear()
  dataset = prepare(counting, out, FOUR_SHARDS)
  assert dataset.num_records == 40 and not reads


def test_another_source_or_other_options_are_refused(tmp_path):
  items, out = examples(8), tmp_path / "out"
  items[6] = KeyError("bug")
  with pytest.raises(KeyError, match="bug"):
    prepare(ListSource(items), out, FOUR_SHARDS)
  for is_finished in (False, True):
    if is_finished:
      items[6] = examples(8)[6]
      prepare(ListSource(items), out, FOUR_SHARDS)
    with pytest.raises(InputError, match="fingerprint '1-8' instead of '2-8'"):
      prepare(ListSource(items, version="2"), out, FOUR_SHARDS)
    with pytest.raises(
      InputError, match=r"\(num_shards 4 instead of 3\): choo"
    ):
      prepare(ListSource(items), out, PrepareOptions(num_shards=3))
  assert len(read(out)) == 8


def test_a_finished_folder_that_lost_a_shard_is_noticed(tmp_path):
  source, out = ListSource(examples(8)), tmp_path / "out"
  prepare(source, out, FOUR_SHARDS)
  (out / "part-00002-of-00004.array_record").unlink()
  with pytest.raises(InputError, match=r"part-00002-of-00004.* is missing"):
    prepare(source, out, FOUR_SHARDS)


def test_the_size_is_said_and_a_full_disk_refused(
  tmp_path, monkeypatch, caplog
):
  source = ListSource(examples(100))
  with caplog.at_level(logging.INFO):
    dataset = prepare(source, tmp_path / "a", FOUR_SHARDS)
  [line] = [r.message for r in caplog.records if "GB are free" in r.message]
  assert "about 0.000" in line
  said = float(line.split("about ")[1].split(" GB")[0]) * 1e9
  assert dataset.num_bytes <= said <= 1.1 * dataset.num_bytes
  usage = collections.namedtuple("usage", "total used free")
  monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, said - 1e4))
  with pytest.raises(InputError, match=r"0\.000.* GB are free: free some sp"):
    prepare(source, tmp_path / "b", FOUR_SHARDS)
  assert not (tmp_path / "b").exists()


def test_one_failing_thread_stops_the_others(tmp_path):
  reads = collections.Counter()

  class Failing(ListSource):
    def __getitem__(self, index):
      reads[threading.get_ident()] += 1
      if index == 1600:
        raise OSError("disk gone")
      return self.items[index]

  items = [Example(record_id="r", image=None, texts=("a",))] * 200_000
  with pytest.raises(InputError, match=r"record 1600 cannot be read \(disk g"):
    prepare(
      Failing(items), tmp_path / "out", PrepareOptions(num_shards=4), threads=4
    )
  assert reads.total() < 100_000


@pytest.mark.parametrize(
  ("source", "options", "message"),
  [
    (ListSource([]), {}, "list has no records to prepare"),
    (ListSource(examples(1)), {"threads": 0}, "threads must be positive, got"),
    (
      ListSource(examples(1)),
      {"max_bad_rate": 2},
      "must be between 0 and 1, got 2",
    ),
  ],
)
def test_what_cannot_start(tmp_path, source, options, message):
  with pytest.raises(InputError, match=message):
    prepare(source, tmp_path / "out", PrepareOptions(), **options)
  assert not list(tmp_path.iterdir())


def test_nothing_left_is_no_dataset(tmp_path):
  options = PrepareOptions(min_short_side=100)
  with pytest.raises(InputError, match=r"no record is left .*'short_side': 3"):
    prepare(ListSource(examples(3)), tmp_path / "out", options)
  assert not (tmp_path / "out").exists()


def test_the_default_uses_all_cores(tmp_path, monkeypatch):
  monkeypatch.setattr(os, "cpu_count", lambda: 64)
  names = set()

  class Naming(ListSource):
    def __getitem__(self, index):
      names.add(threading.current_thread().name)
      return self.items[index]

  options = PrepareOptions(num_shards=40)
  prepare(Naming(examples(40)), tmp_path / "out", options)
  assert 1 <= len(names - {"MainThread"}) <= 16


def example(width, height, kind="PNG") -> Example:
  file = io.BytesIO()
  Image.new("RGB", (width, height), "teal").save(file, kind)
  return Example(record_id="r", image=file.getvalue(), texts=("a",))


def test_by_default_examples_stay_as_they_are():
  options = PrepareOptions()
  for plain in [
    example(3, 500),
    Example(record_id="r", image=b"no image", texts=("a",)),
    Example(record_id="r", image=None, texts=()),
  ]:
    assert options.refused(plain) is None
    assert decode_example(options.record(plain), "place") == plain


def test_large_images_are_shrunk():
  options = PrepareOptions(short_side=16)
  shrunk = decode_example(options.record(example(64, 32)), "place")
  with Image.open(io.BytesIO(shrunk.image)) as image:
    assert (image.size, image.format) == ((32, 16), "JPEG")
  text_only = Example(record_id="r", image=None, texts=("a",))
  assert decode_example(options.record(text_only), "place") == text_only
  with pytest.raises(BadRecord, match="r: not_an_image"):
    options.record(Example(record_id="r", image=b"x", texts=("a",)))


@pytest.mark.parametrize(
  ("width", "height", "refused"),
  [
    (40, 20, None),
    (41, 20, "ratio"),
    (20, 41, "ratio"),
    (20, 15, "short_side"),
    (16, 16, None),
  ],
)
def test_filters_look_at_the_original_size(width, height, refused):
  options = PrepareOptions(short_side=8, max_ratio=2.0, min_short_side=16)
  assert options.refused(example(width, height)) == refused


def test_filters_need_a_header():
  options = PrepareOptions(min_short_side=16)
  with pytest.raises(BadRecord, match="r: not_an_image"):
    options.refused(Example(record_id="r", image=b"x", texts=("a",)))
  assert options.refused(Example(record_id="r", image=None, texts=())) is None


@pytest.mark.parametrize(
  ("num_records", "shards"), [(1, 1), (8192, 1), (8193, 2), (10**6, 123)]
)
def test_how_many_shards(num_records, shards):
  assert PrepareOptions().shards_for(num_records) == shards
  assert PrepareOptions(num_shards=7).shards_for(num_records) == 7


def test_equal_json_means_equal_bytes():
  def as_json(**options):
    # RFC 8259 knows no infinity.
    return json.dumps(PrepareOptions(**options).as_json(10), allow_nan=False)

  assert as_json() == as_json(jpeg_quality=50) == as_json(num_shards=1)
  different = [
    as_json(),
    as_json(short_side=8),
    as_json(short_side=8, jpeg_quality=50),
    as_json(num_shards=2),
    as_json(max_ratio=3.0),
    as_json(min_short_side=3),
  ]
  assert len(set(different)) == len(different)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"num_shards": 0}, r"shards must be between 1 and 99999, got 0"),
    ({"num_shards": 100_000}, "shards must be between"),
    ({"short_side": 0}, "short_side must be positive, got 0"),
    ({"jpeg_quality": 0}, r"jpeg_quality must be between 1 and 100, got 0"),
    ({"jpeg_quality": 101}, "jpeg_quality must be between"),
    ({"max_ratio": 0.5}, "max_ratio"),
    ({"min_short_side": -1}, "min_short_side"),
  ],
)
def test_values_out_of_range(options, message):
  with pytest.raises(ValueError, match=message):
    PrepareOptions(**options)
