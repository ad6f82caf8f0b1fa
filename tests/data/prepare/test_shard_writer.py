"""The folder while it is written: plan, lock, and which parts are finished."""

import dataclasses
import fcntl
import json
import os
import shutil

import pytest

from ddit_jax.data.example import BadRecord
from ddit_jax.data.prepare.shard_writer import (
  Processes,
  ShardWriter,
  read_example,
)
from ddit_jax.data.prepare.shards import FolderFormat, read_dataset
from ddit_jax.data.prepare.tally import BadEntry, named_counts
from ddit_jax.errors import InputError

FORMAT = FolderFormat(name="numbers", version=1, command="ddit prepare")


class Numbers:
  """Ten of them."""

  name, removed = "numbers", {"small": 1}

  def __init__(self, version="f", bad=()):
    self.version, self.bad = version, bad

  def __len__(self):
    return 10

  def __getitem__(self, index):
    raise OSError("disk gone")

  def fingerprint(self):
    return self.version


class Writer:
  """Writes numbers twice, and notes what it wrote."""

  def __init__(self, source):
    self.source, self.written = source, []

  def __call__(self, indices, files, report):
    for index in indices:
      self.written.append(index)
      for file in files:
        file.write(f"{index}".encode())
      is_bad = index in self.source.bad
      entries = [BadEntry(index, f"r{index}", f"odd_{index % 2}", "")]
      report(1, entries if is_bad else [])
    return {"few": 1}, {"all": len(indices)}


def writer(folder, source=None, **changes):
  """Of four parts of two files."""
  source = source or Numbers()
  given = ShardWriter(
    folder=folder,
    fmt=FORMAT,
    source=source,
    options={"size": 8},
    write_part=Writer(source),
    num_parts=4,
    kinds=("a", "b"),
  )
  return dataclasses.replace(given, **changes)


@pytest.mark.parametrize("num_parts", [1, 3, 10, 15])
def test_parts_cover_everything_once_and_evenly(tmp_path, num_parts):
  ranges = writer(tmp_path, num_parts=num_parts).unfinished_parts()
  assert [i for indices in ranges for i in indices] == list(range(10))
  sizes = list(map(len, ranges))
  assert len(sizes) == num_parts and max(sizes) - min(sizes) <= 1


def test_everything_is_summed(tmp_path):
  manifest = writer(tmp_path).write()
  assert manifest == read_dataset(tmp_path, FORMAT)
  assert manifest.removed == {"small": 1, "few": 4}
  assert manifest.counts == {"all": 10}
  assert [s.num_records for s in manifest.of_kind("b")] == [2, 3, 2, 3]
  assert [shard.name for shard in manifest.shards] == [
    f"{kind}-0000{part}-of-00004.array_record"
    for kind in "ab"
    for part in range(4)
  ]
  assert manifest.source == {
    "name": "numbers",
    "fingerprint": "f",
    "num_records": 10,
  }


def interrupted(folder, after=7):
  """A folder whose first two parts are finished."""

  def stop(done, total):
    # Parts that a thread has begun by then do not finish either.
    if done >= after:
      raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    writer(folder, progress=stop).write()
  return folder


def test_finished_parts_are_not_written_again(tmp_path):
  interrupted(tmp_path)
  assert writer(tmp_path).unfinished_parts() == [range(5, 7), range(7, 10)]
  resumed, seen = writer(tmp_path), []
  resumed = dataclasses.replace(
    resumed, progress=lambda *counts: seen.append(counts)
  )
  resumed.write()
  assert resumed.write_part.written == list(range(5, 10))
  assert seen[:3] == [(2, 10), (5, 10), (6, 10)] and seen[-1] == (10, 10)


@pytest.mark.parametrize(
  "report", [b"", b"{}", b"[]", b'{"shards": null}', b'{"shards": [{}]}']
)
def test_a_part_with_a_damaged_report_is_written_again(tmp_path, report):
  folder = interrupted(tmp_path)
  path = folder / "in_progress" / "a-00001-of-00004.array_record.json"
  assert path.is_file()
  path.write_bytes(report)
  assert writer(folder).unfinished_parts()[0] == range(2, 5)


@pytest.mark.parametrize("kind", "ab")
@pytest.mark.parametrize("is_cut", [True, False])
def test_a_part_without_one_of_its_shards_is_written_again(
  tmp_path, kind, is_cut
):
  folder = interrupted(tmp_path)
  path = folder / f"{kind}-00001-of-00004.array_record"
  data = path.read_bytes()
  path.unlink()
  if is_cut:
    path.write_bytes(data[:-1])
  assert writer(folder).unfinished_parts()[0] == range(2, 5)


@pytest.mark.parametrize("is_finished", [False, True])
def test_another_plan_is_refused_with_the_differences(tmp_path, is_finished):
  if is_finished:
    writer(tmp_path).write()
  else:
    interrupted(tmp_path)
  changed = {"options": {"size": 9, "side": {"short": 1}}}
  with pytest.raises(
    InputError,
    match=r"other options \(side.short None instead of 1, size 8 instead of 9, "
    r"source_fingerprint 'f' instead of 'g'\): choose another folder",
  ):
    writer(tmp_path, Numbers("g"), **changed).write()


def test_one_process_at_a_time(tmp_path):
  def write_again(done, total):
    with pytest.raises(InputError, match="another process is writing to"):
      writer(tmp_path).write()

  writer(tmp_path, progress=write_again).write()


def test_a_writer_that_comes_late_takes_what_is_finished(tmp_path):
  """The other one finishes while this one waits to begin."""
  late = writer(tmp_path)

  def finish(name):
    if name == "locked":
      writer(tmp_path / "copy").write()
      for path in (tmp_path / "copy").iterdir():
        path.rename(tmp_path / path.name)

  manifest = dataclasses.replace(late, processes=Processes(barrier=finish))
  assert manifest.write() == read_dataset(tmp_path, FORMAT)
  assert late.write_part.written == []
  assert not (tmp_path / "in_progress").exists()


def test_a_lock_that_was_removed_locks_nobody_out(tmp_path):
  """The writer before removed it after this one had opened it."""
  late, opened = writer(tmp_path), []
  plain_flock = fcntl.flock

  def flock(file, how):
    if not opened:
      shutil.rmtree(tmp_path / "in_progress")
    opened.append(file)
    plain_flock(file, how)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(fcntl, "flock", flock)
    late.write()
  assert len(opened) == 2 and opened[0].closed


def test_what_the_source_left_out_is_listed(tmp_path):
  source = Numbers(bad=(3,))
  source.faults = (BadRecord("bad_text", "not UTF-8", "a.txt"),)
  writer(tmp_path, source, max_bad_rate=0.1).write()
  lines = (tmp_path / "bad_records.jsonl").read_text().splitlines()
  assert [json.loads(line) for line in lines] == [
    {
      "index": None,
      "record_id": "a.txt",
      "reason": "bad_text",
      "detail": "not UTF-8",
    },
    {"index": 3, "record_id": "r3", "reason": "odd_1", "detail": ""},
  ]


def test_other_peoples_files_are_left_alone(tmp_path):
  (tmp_path / "thesis.tex").write_text("")
  with pytest.raises(InputError, match=r"holds thesis\.tex and more"):
    writer(tmp_path).write()
  with pytest.raises(InputError, match=r"thesis\.tex is a file"):
    writer(tmp_path / "thesis.tex").write()
  assert os.listdir(tmp_path) == ["thesis.tex"]


def test_a_lost_shard_of_a_finished_folder_is_noticed(tmp_path):
  manifest = writer(tmp_path).write()
  (tmp_path / manifest.shards[5].name).unlink()
  with pytest.raises(InputError, match=r"b-00001-of-00004.* is missing"):
    writer(tmp_path).write()


def test_damaged_files_are_a_line_with_the_way_out(tmp_path):
  folder = interrupted(tmp_path)
  (folder / "in_progress" / "plan.json").write_text("{")
  with pytest.raises(InputError, match=r"plan.json is not JSON"):
    writer(folder).write()
  (folder / "dataset.json").write_text("{")
  with pytest.raises(InputError, match=r"dataset.json is not JSON"):
    writer(folder).write()


@pytest.mark.parametrize(
  ("rate", "allowed"), [(0.19, 1), (0.2, 2), (1.0, 10), (0.0, 0)]
)
def test_the_limit_is_a_share_of_all_records(tmp_path, rate, allowed):
  bad = tuple(range(allowed))
  writer(tmp_path / "a", Numbers(bad=bad), max_bad_rate=rate).write()
  if allowed == 10:
    return
  source = Numbers(bad=(*bad, 9))
  with pytest.raises(
    InputError,
    match=rf"^numbers: {allowed + 1} of 10 records are bad \(.*\), more than "
    rf"the {allowed} that are allowed: look at .*bad_records.jsonl, repair",
  ):
    writer(tmp_path / "b", source, max_bad_rate=rate).write()
  lines = (tmp_path / "b" / "bad_records.jsonl").read_text().splitlines()
  assert len(lines) == allowed + 1


def test_the_most_frequent_reason_comes_first(tmp_path):
  source = Numbers(bad=(0, 1, 3))
  with pytest.raises(
    InputError, match=r"\(odd_1 2, odd_0 1\), more than the 2"
  ):
    writer(tmp_path, source, max_bad_rate=0.2).write()


def test_a_failing_disk_stops():
  with pytest.raises(InputError, match=r"3 cannot be read \(disk gone\): run"):
    read_example(Numbers(), 3)


def test_counts_as_people_read_them():
  assert named_counts({"ratio": 12345, "x": 0}) == "ratio 12,345, x 0"
  assert named_counts({}) == ""
