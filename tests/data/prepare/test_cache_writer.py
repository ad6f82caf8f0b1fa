"""Whole caches: every record and text, by any number of processes."""

import dataclasses
import json
import threading

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordReader

from ddit_jax.data.prepare.cache_format import ArrayFormat, decode_cached
from ddit_jax.data.prepare.shard_writer import Processes
from ddit_jax.data.prepare.shards import (
  num_parts_for,
  sampled_mean,
  shards_bytes,
)
from ddit_jax.data.text import tokenize_and_pad
from ddit_jax.errors import InputError
from tests.data.prepare import tiny_cache as tiny


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  folder = tmp_path_factory.mktemp("whole") / "out"
  return folder, tiny.writer(folder).write()


def records_of(folder, manifest, kind) -> list[bytes]:
  """Read by the library's own reader."""
  readers = [
    ArrayRecordReader(str(folder / shard.name))
    for shard in manifest.of_kind(kind)
  ]
  return [reader.read_all() for reader in readers]


def test_the_manifest_counts_everything(whole):
  folder, manifest = whole
  assert manifest.bad_records == {"missing_file": 1, "truncated_image": 1}
  # 36 texts of readable records, one of which is blank.
  assert manifest.counts == {"bad_texts/empty_text": 1, "truncated_texts": 1}
  latents, features = map(manifest.of_kind, ("latents", "features"))
  assert manifest.shards == (*latents, *features)
  assert sum(s.num_records for s in latents) == tiny.NUM_RECORDS
  assert sum(s.num_records for s in features) == 35
  assert manifest.options["moments"] == {
    "shape": [2, 2, 6],
    "dtype": "bfloat16",
  }
  assert manifest.options["latents"] == {"autoencoder": "v", "image_size": 8}
  lines = (folder / "bad_records.jsonl").read_text().splitlines()
  found = [json.loads(line) for line in lines]
  assert [(e["index"], e["record_id"]) for e in found] == [(3, "r3"), (7, "r7")]
  assert sorted(tiny.contents(folder)) == [
    "bad_records.jsonl",
    "dataset.json",
    *sorted(shard.name for shard in manifest.shards),
  ]


def test_every_record_and_text_is_where_it_should_be(whole):
  source, index = tiny.TinySource(), 0
  for latents, features in zip(
    *(records_of(*whole, kind) for kind in ("latents", "features")),
    strict=True,
  ):
    entry = 0
    for data in latents:
      record = decode_cached(data, "here")
      if index == tiny.UNREADABLE:
        assert record.bad_record == ("missing_file", "gone")
      else:
        entry += check_record(record, source[index], features[entry:], entry)
      assert record.record_id == f"r{index}"
      index += 1
    assert entry == len(features)
  assert index == tiny.NUM_RECORDS


def check_record(record, example, features, first: int) -> int:
  """Compares what was stored; how many of the features were the record's."""
  assert (record.texts, record.prompt) == (example.texts, example.prompt)
  if record.moments is None:
    assert (record.bad_image is None) == (example.image is None)
  else:
    pixels = tiny.IMAGES(
      example.image, np.random.default_rng(0), record_id="", may_flip=False
    )
    moments = tiny.moments_of(pixels[None])[0]
    assert record.moments == tiny.MOMENTS.pack(moments)
  count = 0
  texts = (*example.texts, *example.rewritten)
  for text, entry in zip(texts, record.feature_entries, strict=True):
    if not text.strip():
      assert entry is None
      continue
    assert entry == first + count
    tokens = tokenize_and_pad(tiny.TOKENIZER, "", text, tiny.LENGTH).tokens
    expected = tiny.FEATURE.pack(tiny.features_of(tokens[None])[0])
    assert features[count] == expected
    count += 1
  return count


def test_what_cannot_be_used_is_marked():
  read = tiny.reader()
  unreadable = read(tiny.UNREADABLE)
  assert unreadable.bad == ("missing_file", "gone")
  assert (unreadable.pixels, unreadable.tokens) == (None, ())
  cut = read(tiny.CUT_IMAGE)
  assert cut.bad[0] == "truncated_image" and cut.pixels is None
  assert len(cut.tokens) == 2
  alone = read(tiny.NO_IMAGE)
  assert (alone.pixels, alone.bad, alone.record.prompt) == (None, None, "a ")
  blank = read(tiny.BLANK_TEXT)
  assert blank.bad_texts == ("empty_text",) and blank.bad is None
  assert blank.tokens[0] is not None and blank.tokens[1] is None
  assert read(tiny.LONG_TEXT).num_truncated == 1


def test_without_features_no_text_is_looked_at(tmp_path):
  row = tiny.reader(has_features=False)(tiny.BLANK_TEXT)
  assert (row.tokens, row.bad_texts) == ((), ())
  assert row.record.texts == ("a", "  ")
  manifest = tiny.writer(tmp_path, has_features=False).write()
  assert manifest.of_kind("features") == () and len(manifest.shards) == 3


def test_the_next_chunk_is_read_while_one_is_encoded(tmp_path):
  """Otherwise this waits for ever."""
  begun = threading.Event()

  class Noticing(tiny.TinySource):
    def __getitem__(self, index):
      if index == 6:
        begun.set()
      return super().__getitem__(index)

  def encode(rows):
    assert begun.wait(timeout=30)
    return tiny.ENCODERS.images(rows)

  encoders = dataclasses.replace(tiny.ENCODERS, images=encode)
  encoder = dataclasses.replace(
    tiny.encoder(encoders=encoders), reader=tiny.reader(source=Noticing())
  )
  writer = tiny.writer(tmp_path, num_parts=1)
  dataclasses.replace(writer, write_part=encoder.write_part).write()


def test_numbers_that_would_change_are_refused(tmp_path):
  encoders = dataclasses.replace(
    tiny.ENCODERS,
    images=lambda rows: tiny.ENCODERS.images(rows) + np.float32(0.001),
  )
  with pytest.raises(ValueError, match="bfloat16 does not hold exactly"):
    tiny.writer(tmp_path, encoders=encoders).write()


def test_a_finished_cache_is_left_as_it_is(whole):
  folder, manifest = whole
  writer = tiny.writer(folder, encoders=None)
  assert writer.unfinished_parts() == []
  assert writer.write() == manifest


@pytest.mark.parametrize("count", [2, 5])
def test_several_processes_write_the_same_bytes(tmp_path, whole, count):
  folder, expected = whole
  barrier, names = threading.Barrier(count, timeout=30), []

  def wait(name):
    names.append(name)
    barrier.wait()

  found = {}

  def work(index):
    processes = Processes(index=index, count=count, barrier=wait)
    # Each has few records, so that most of one's may be bad.
    writer = tiny.writer(tmp_path, processes=processes, max_bad_rate=1.0)
    found[index] = writer.write()

  threads = [threading.Thread(target=work, args=(i,)) for i in range(count)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert [found[i] for i in range(count)] == [expected] * count
  assert tiny.contents(tmp_path) == tiny.contents(folder)
  assert {name: names.count(name) for name in names} == dict.fromkeys(
    ["locked", "written", "finished"], count
  )


def test_only_missing_parts_are_written(tmp_path, whole):
  folder, expected = whole

  def stop_at_half(done, total):
    if done > total / 2:
      raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    tiny.writer(tmp_path, progress=stop_at_half).write()
  left = tiny.writer(tmp_path).unfinished_parts()
  assert left == [range(7, 15), range(15, 23)]
  calls = []
  encoders = dataclasses.replace(
    tiny.ENCODERS,
    images=lambda rows: calls.append(len(rows)) or tiny.ENCODERS.images(rows),
  )
  assert tiny.writer(tmp_path, encoders=encoders).write() == expected
  # Chunks of four records; 7 has a cut image and 11 has none.
  assert calls == [3, 3, 4, 4]
  assert tiny.contents(tmp_path) == tiny.contents(folder)


def test_an_error_leaves_finished_parts(tmp_path):
  def fail_at_the_second_part(done, total):
    if done == 15:
      raise InputError("no space left")

  with pytest.raises(InputError, match="no space"):
    tiny.writer(tmp_path, progress=fail_at_the_second_part).write()
  assert len(tiny.writer(tmp_path).unfinished_parts()) == 2


def test_the_published_sizes():
  # SD3 at 256 pixels: 32 x 32 x 32 numbers; T5-XXL at 256 tokens.
  assert ArrayFormat((32, 32, 32), "bfloat16").num_bytes == 64 * 2**10
  assert ArrayFormat((256, 4096), "bfloat16").num_bytes == 2 * 2**20


def test_the_foreseen_size_is_a_little_more_than_what_is_written(whole):
  _, manifest = whole
  mean = sampled_mean(tiny.NUM_RECORDS, tiny.encoder().record_bytes)
  # All 23 are read, and 36 texts.
  assert mean > 48 + 36 / 23 * 24
  total = shards_bytes(tiny.NUM_RECORDS, num_shards=6, bytes_per_record=mean)
  assert manifest.num_bytes <= total <= 1.1 * manifest.num_bytes


@pytest.mark.parametrize(
  ("num_records", "num_bytes", "expected"),
  [(0, 2**16, 1), (8192, 2**16, 1), (8193, 0, 2), (10_000, 2**21 + 2**16, 11)],
)
def test_parts_stay_small(num_records, num_bytes, expected):
  # 10,000 records of 2 MiB and 64 KiB are 20.2 GiB, at most 2 GiB each.
  assert num_parts_for(num_records, num_bytes) == expected
