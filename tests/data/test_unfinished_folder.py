"""The folder while it is written: plan, lock, and what counts as finished."""

import os

import pytest

from ddit_jax.data.prepare.shards import (
  FinishedShard,
  PrepareError,
  Shard,
  UnfinishedFolder,
  is_finished,
)

NAME = "part-0.array_record"
PLAN = {"source": "f", "num_shards": 2}
FINISHED = FinishedShard(
  shard=Shard(name=NAME, num_records=3, num_bytes=5, blake2b="00"),
  removed={"ratio": 1},
  bad_records=({"index": 4, "reason": "bad_json"},),
)


@pytest.fixture
def folder(tmp_path):
  return UnfinishedFolder(tmp_path / "new" / "out")


def test_a_shard_appears_when_it_is_finished(folder):
  with folder.locked(PLAN):
    assert folder.finished(NAME) is None
    folder.partial_path(NAME).write_bytes(b"12345")
    assert folder.finished(NAME) is None
    folder.finish(FINISHED)
    assert (folder.folder / NAME).read_bytes() == b"12345"
    assert not folder.partial_path(NAME).exists()
  with UnfinishedFolder(folder.folder).locked(PLAN):
    assert folder.finished(NAME) == FINISHED
    report = folder.partial_path(f"{NAME}.json")
    for damaged in (b"", b"{}", b'{"shard": {}}', b'{"shard": null}'):
      whole = report.read_bytes()
      report.write_bytes(damaged)
      assert folder.finished(NAME) is None
      report.write_bytes(whole)
    (folder.folder / NAME).write_bytes(b"1234")
    assert folder.finished(NAME) is None


def test_a_kill_before_the_rename_leaves_it_unfinished(folder, monkeypatch):
  plain = os.replace

  def die_at_the_shard(source, target):
    if str(target).endswith(NAME):
      raise KeyboardInterrupt
    plain(source, target)

  with folder.locked(PLAN):
    folder.partial_path(NAME).write_bytes(b"12345")
    monkeypatch.setattr(os, "replace", die_at_the_shard)
    with pytest.raises(KeyboardInterrupt):
      folder.finish(FINISHED)
    assert folder.finished(NAME) is None


def test_another_plan_is_refused_with_the_differences(folder):
  with folder.locked(PLAN):
    pass
  other = {"source": "g", "num_shards": 2, "short_side": 8}
  with pytest.raises(
    PrepareError,
    match=r"\(short_side None instead of 8, source 'f' instead of 'g'\): choo",
  ):
    with folder.locked(other):
      pass


def test_one_process_at_a_time(folder):
  with folder.locked(PLAN):
    with pytest.raises(PrepareError, match="another process is writing to"):
      with UnfinishedFolder(folder.folder).locked(PLAN):
        pass
  with UnfinishedFolder(folder.folder).locked(PLAN):
    pass


def test_other_peoples_files_are_left_alone(folder):
  folder.folder.mkdir(parents=True)
  with folder.locked(PLAN):
    folder.clear()
  (folder.folder / "thesis.tex").write_text("")
  with pytest.raises(PrepareError, match=r"holds thesis\.tex and more"):
    with folder.locked(PLAN):
      pass
  file = UnfinishedFolder(folder.folder / "thesis.tex")
  with pytest.raises(PrepareError, match=r"thesis\.tex is a file"):
    with file.locked(PLAN):
      pass
  assert os.listdir(folder.folder) == ["thesis.tex"]


def test_a_folder_is_finished_by_its_last_file(folder):
  folder.folder.mkdir(parents=True)
  assert not is_finished(folder.folder)
  (folder.folder / "dataset.json").write_text("{}")
  assert is_finished(folder.folder)
