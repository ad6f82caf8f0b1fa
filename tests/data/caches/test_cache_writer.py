"""Whole caches: what they hold, by any number of processes, and refused."""

import dataclasses
import json
import shutil
import threading

import pytest

from ddit_jax.data.prepare import cache_writer
from ddit_jax.data.prepare.cache_writer import Processes
from ddit_jax.data.prepare.shards import PrepareError
from tests.data.caches import tiny_cache as tiny


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  folder = tmp_path_factory.mktemp("whole") / "out"
  return folder, tiny.writer(folder).write()


def test_the_manifest_counts_everything(whole):
  folder, manifest = whole
  assert manifest.bad_records == {"missing_file": 1, "truncated_image": 1}
  assert manifest.bad_texts == {"empty_text": 1}
  # 36 texts of readable records, see test_cache_size; one is blank.
  assert (manifest.num_texts, manifest.num_truncated) == (35, 1)
  assert sum(s.num_records for s in manifest.latents) == tiny.NUM_RECORDS
  assert sum(s.num_records for s in manifest.features) == 35
  lines = (folder / "bad_records.jsonl").read_text().splitlines()
  found = [json.loads(line) for line in lines]
  assert [(e["index"], e["record_id"]) for e in found] == [(3, "r3"), (7, "r7")]
  assert sorted(tiny.contents(folder)) == [
    "bad_records.jsonl",
    "dataset.json",
    *sorted(shard.name for shard in manifest.shards),
  ]


def test_a_finished_cache_is_left_as_it_is(whole):
  folder, manifest = whole
  writer = tiny.writer(folder, encoders=None)
  assert writer.unfinished_parts() == []
  assert writer.write() == manifest


@pytest.mark.parametrize("count", [2, 3, 5])
def test_several_processes_write_the_same_bytes(tmp_path, whole, count):
  folder, expected = whole
  barrier, names = threading.Barrier(count, timeout=30), []

  def wait(name):
    names.append(name)
    barrier.wait()

  found = {}

  def work(index):
    processes = Processes(index=index, count=count, barrier=wait)
    # Shares are small, so that one of them may be bad for the most part.
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


def test_without_features_there_is_one_file_a_part(tmp_path):
  manifest = tiny.writer(tmp_path, has_features=False).write()
  assert manifest.features == () and manifest.num_texts == 0
  assert len(manifest.latents) == 3


def test_only_missing_parts_are_written(tmp_path, whole):
  folder, expected = whole
  progress = []

  def stop_at_half(done, total):
    progress.append((done, total))
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


def test_another_plan_is_refused(tmp_path, whole):
  folder, _ = whole
  copy = shutil.copytree(folder, tmp_path / "out")
  other = tiny.plan(num_shards=4)
  with pytest.raises(PrepareError, match="num_shards 3 instead of 4"):
    tiny.writer(copy, plan=other).write()
  (copy / "dataset.json").unlink()
  with pytest.raises(PrepareError, match=r"holds .* that ddit prepare did not"):
    tiny.writer(copy).write()


def test_a_lost_shard_is_refused(tmp_path, whole):
  folder, manifest = whole
  copy = shutil.copytree(folder, tmp_path / "out")
  (copy / manifest.shards[0].name).unlink()
  with pytest.raises(ValueError, match=r"latents-00000.* is missing"):
    tiny.writer(copy).write()


def test_too_many_bad_records_stop_and_are_listed(tmp_path):
  with pytest.raises(PrepareError, match=r"2 of 23 .*max_bad_rate"):
    tiny.writer(tmp_path, max_bad_rate=0.05).write()
  listed = (tmp_path / "bad_records.jsonl").read_text()
  assert "truncated_image" in listed and "missing_file" in listed
  assert not (tmp_path / "dataset.json").exists()


def test_a_full_disk_leaves_finished_parts(tmp_path, monkeypatch):
  real, calls = cache_writer.PartWriter.run, []

  def fail_at_the_second(self, *args):
    calls.append(self)
    if len(calls) == 2:
      raise PrepareError("no space left")
    return real(self, *args)

  monkeypatch.setattr(cache_writer.PartWriter, "run", fail_at_the_second)
  with pytest.raises(PrepareError, match="no space"):
    tiny.writer(tmp_path).write()
  assert len(tiny.writer(tmp_path).unfinished_parts()) == 2
