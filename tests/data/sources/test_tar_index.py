"""Indexes are built once, anew when they must be, and never by halves."""

import logging
import os
import pickle
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from ddit_jax.data.sources import tar_index
from ddit_jax.data.sources.paths import file_facts
from ddit_jax.data.sources.tar_index import index_fingerprint, open_index
from ddit_jax.data.sources.tar_samples import SampleRules, shard_samples
from tests.source_files import sample, write_shard, write_tar

RULES = SampleRules()
NAMES = [f"train-{n}.tar" for n in range(4)]


@pytest.fixture
def shards(tmp_path):
  """A folder with four shards of one to four samples."""
  folder = tmp_path / "shards"
  folder.mkdir()
  for n, name in enumerate(NAMES):
    write_shard(folder / name, [f"{n}{k}" for k in range(n + 1)])
  return folder


def look_at(folder, names):
  return [file_facts(folder / name) for name in names]


def opened(folder, *, rules=RULES, index_folder=None, workers=1):
  shards = look_at(folder, NAMES)
  return open_index(
    *(folder, shards, rules),
    index_folder=index_folder or folder,
    workers=workers,
  )


def indexes(folder) -> list[str]:
  """Without their records."""
  found = [name for name in os.listdir(folder) if name not in NAMES]
  return [name for name in found if not name.endswith(".records")]


def test_records_follow_the_order_of_shards(shards):
  index = opened(shards)
  np.testing.assert_array_equal(index.ends, [1, 3, 6, 10])
  alone = b"".join(
    shard_samples(str(shards / name), RULES).records for name in NAMES
  )
  assert index.records.tobytes() == alone
  assert (index.report.removed, index.report.damaged) == ({}, {})


def test_an_index_is_built_once(shards, monkeypatch):
  first = opened(shards)
  (name,) = indexes(shards)
  assert name.endswith(".tarindex")
  monkeypatch.setattr(tar_index, "_build", None)
  assert opened(shards).records.tobytes() == first.records.tobytes()


@pytest.mark.parametrize("change", ["content", "time", "damaged index"])
def test_a_stale_index_is_built_anew_and_loudly(change, shards, caplog):
  opened(shards)
  (name,) = indexes(shards)
  if change == "content":
    write_shard(shards / NAMES[1], ["a", "b", "c", "d", "e"])
  elif change == "time":
    os.utime(shards / NAMES[1], ns=(7, 7))
  else:
    (shards / name).write_bytes(b"rubbish")
  index = opened(shards)
  assert len(index.records) == (13 if change == "content" else 10)
  (warning,) = (r for r in caplog.records if r.levelno == logging.WARNING)
  assert f"{name} is built again" in warning.getMessage()
  assert indexes(shards) == [name]


def test_each_set_of_rules_has_its_own_index(shards):
  opened(shards)
  opened(shards, rules=SampleRules(caption_key="alt"))
  assert len(indexes(shards)) == 2


def test_indexes_elsewhere_are_told_apart_by_folder(shards, tmp_path):
  other = tmp_path / "other"
  other.mkdir()
  cache = tmp_path / "cache"
  cache.mkdir()
  for name in NAMES:
    write_shard(other / name, ["x"])
  assert len(opened(shards, index_folder=cache).records) == 10
  assert len(opened(other, index_folder=cache).records) == 4
  assert len(indexes(cache)) == 2 and indexes(shards) == []


def test_an_index_beside_its_shards_moves_with_them(shards, monkeypatch):
  opened(shards)
  moved = shards.with_name("moved")
  shards.rename(moved)
  monkeypatch.setattr(tar_index, "_build", None)
  assert len(opened(moved).records) == 10


def test_processes_give_the_same_file(shards, monkeypatch):
  alone = opened(shards)
  monkeypatch.setattr(tar_index, "_SECONDS_ALONE", -1.0)
  (name,) = indexes(shards)
  (shards / name).unlink()
  together = opened(shards, workers=2)
  assert together.records.tobytes() == alone.records.tobytes()
  np.testing.assert_array_equal(together.ends, alone.ends)


def test_an_error_while_building_leaves_nothing(shards, monkeypatch):
  done = []

  def fail_at_the_third(path, rules):
    if len(done) == 2:
      raise KeyboardInterrupt
    done.append(path)
    return shard_samples(path, rules)

  monkeypatch.setattr(tar_index, "shard_samples", fail_at_the_third)
  with pytest.raises(KeyboardInterrupt):
    opened(shards)
  assert len(done) == 2 and indexes(shards) == []


KILLED = """
import pathlib, sys, time
from ddit_jax.data.sources import tar_index
from ddit_jax.data.sources.paths import file_facts
from ddit_jax.data.sources.tar_samples import SampleRules, shard_samples
def slow(path, rules):
  if path.endswith("train-2.tar"):
    print("half", flush=True)
    time.sleep(60)
  return shard_samples(path, rules)
tar_index.shard_samples = slow
folder = pathlib.Path(sys.argv[1])
shards = [file_facts(folder / name) for name in sys.argv[2:]]
tar_index.open_index(
  folder, shards, SampleRules(), index_folder=folder, workers=1
)
"""


def test_a_killed_builder_leaves_no_index(shards):
  process = subprocess.Popen(
    [sys.executable, "-c", KILLED, str(shards), *NAMES], stdout=subprocess.PIPE
  )
  assert process.stdout.readline() == b"half\n"
  process.send_signal(signal.SIGKILL)
  process.wait()
  process.stdout.close()
  (partial,) = indexes(shards)
  assert partial.endswith(".partial")
  hours_ago = time.time() - 7200
  os.utime(shards / partial, (hours_ago, hours_ago))
  assert len(opened(shards).records) == 10
  (name,) = indexes(shards)
  assert name.endswith(".tarindex")


def test_what_is_skipped_is_summed_and_told(shards, caplog):
  members = sample("0") | {"../x.jpg": b"", "1.txt": b"a", "README": b"r"}
  write_tar(shards / NAMES[0], members)
  whole = (shards / NAMES[3]).read_bytes()
  (shards / NAMES[3]).write_bytes(whole[: whole.index(b"33.txt") + 100])
  report = opened(shards).report
  assert report.removed == {"corrupt_shard": 1, "no_image": 1, "unsafe_path": 1}
  assert report.named["unsafe_path"] == ["train-0.tar:../x.jpg"]
  assert list(report.damaged) == [NAMES[3]] and report.num_other == 1
  assert "1 unsafe_path" in caplog.text
  assert "train-3.tar: no end marker: cut off" in caplog.text


def test_no_sample_at_all_is_an_error_that_says_why(shards):
  for name in NAMES:
    (shards / name).write_bytes(b"<html>not found</html>" * 100)
  with pytest.raises(ValueError, match=r"4 corrupt_shard.*wrong checksum"):
    opened(shards)
  assert indexes(shards) == []


def test_the_fingerprint_is_stable_and_sees_changes(shards):
  before = index_fingerprint(look_at(shards, NAMES), RULES)
  assert before == index_fingerprint(look_at(shards, NAMES), RULES)
  assert before != index_fingerprint(look_at(shards, NAMES[::-1]), RULES)
  assert before != index_fingerprint(
    look_at(shards, NAMES), SampleRules(caption_key="alt")
  )
  os.utime(shards / NAMES[0], ns=(7, 7))
  assert before != index_fingerprint(look_at(shards, NAMES), RULES)


def test_few_results_wait_at_a_time(monkeypatch):
  """So that memory does not grow with the number of shards."""
  ahead = 0
  most = 0

  class Future:
    def result(self):
      nonlocal ahead
      ahead -= 1
      return "samples"

  class Pool:
    def __init__(self, workers, mp_context):
      assert workers == 2 and mp_context.get_start_method() == "spawn"

    def __enter__(self):
      return self

    def __exit__(self, *error):
      pass

    def submit(self, *args):
      nonlocal ahead, most
      ahead += 1
      most = max(most, ahead)
      return Future()

    def shutdown(self, **options):
      assert options["cancel_futures"]

  monkeypatch.setattr(tar_index.concurrent.futures, "ProcessPoolExecutor", Pool)
  found = list(tar_index._in_processes(["x"] * 1000, RULES, 2))
  assert len(found) == 1000 and most == 7


def test_a_dead_worker_is_an_error_with_the_way_out(monkeypatch):
  def dies(path, rules):
    raise tar_index.concurrent.futures.BrokenExecutor("gone")

  class Threads(tar_index.concurrent.futures.ThreadPoolExecutor):
    def __init__(self, workers, mp_context):
      super().__init__(workers)

  monkeypatch.setattr(tar_index, "shard_samples", dies)
  monkeypatch.setattr(
    tar_index.concurrent.futures, "ProcessPoolExecutor", Threads
  )
  with pytest.raises(ValueError, match=r"died .*workers=1"):
    list(tar_index._in_processes(["x"] * 9, RULES, 2))


def test_it_pickles_without_its_records(shards):
  """Worker processes map the file themselves."""
  index = opened(shards)
  data = pickle.dumps(index)
  copy = pickle.loads(data)
  assert "records" not in vars(copy)
  np.testing.assert_array_equal(copy.records, index.records)
