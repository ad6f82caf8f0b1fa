"""Plain facts come back exactly; which step folders count, and deleting."""

import json
import math
import shutil

import numpy as np
import pytest

from ddit_jax.checkpoint import steps as step_folders
from ddit_jax.checkpoint.manifest import CheckpointError, write_manifest

CONFIG = {"schema_version": 1, "width": 64, "betas": [0.9, 0.95], "name": None}


def encode(**changes):
  facts = {
    "config": CONFIG,
    "data_position": {"next_index": 12},
    "metrics": None,
    "files": {},
  }
  return step_folders.encode_plain(**(facts | changes))


def test_what_is_written_is_read(tmp_path):
  files = {"tokenizer.json": b"\x00\xff{}", "vocab.txt": b"one\r\ntwo"}
  step_folders.write_plain(
    tmp_path, encode(files=files, metrics={"loss": 0.1, "bad": math.inf})
  )
  assert step_folders.read_facts(tmp_path, "config") == CONFIG
  assert step_folders.read_facts(tmp_path, "data_position") == {
    "next_index": 12
  }
  assert step_folders.read_files(tmp_path) == files
  metrics = step_folders.read_metrics(tmp_path)
  assert metrics["loss"] == 0.1 and math.isnan(metrics["bad"])


def test_the_json_is_strict_json():
  contents = encode(metrics={"a": math.nan, "b": np.float32(0.5)})

  def refuse(name):
    raise AssertionError(f"{name} is not JSON")

  read = json.loads(contents["plain/metrics.json"], parse_constant=refuse)
  assert read == {"a": None, "b": 0.5}


def test_without_metrics_and_files_there_are_none(tmp_path):
  step_folders.write_plain(tmp_path, encode())
  assert step_folders.read_metrics(tmp_path) is None
  assert step_folders.read_files(tmp_path) == {}


def test_a_missing_record_is_named(tmp_path):
  with pytest.raises(CheckpointError, match=r"config\.json is missing"):
    step_folders.read_facts(tmp_path, "config")


@pytest.mark.parametrize(
  ("value", "message"),
  [
    ((1, 2), r"config\.a\.b is a tuple"),
    (np.float32(1), r"config\.a\.b is a float32"),
    (math.nan, r"config\.a\.b is nan"),
    ({1: 2}, r"config\.a\.b has the key 1"),
    ([0, {"c": b""}], r"config\.a\.b\[1\]\.c is a bytes"),
  ],
)
def test_what_json_would_change_is_refused_with_its_path(value, message):
  with pytest.raises(ValueError, match=message):
    encode(config={"schema_version": 1, "a": {"b": value}})


def test_a_config_needs_its_schema_version():
  with pytest.raises(ValueError, match="schema_version"):
    encode(config={"width": 64})


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../a", "a\\b", "/a"])
def test_a_file_name_cannot_lead_elsewhere(name):
  with pytest.raises(ValueError, match="not a plain name"):
    encode(files={name: b""})


def add_step(folder, step, *, metrics=None, is_finished=True):
  contents = step_folders.encode_plain(
    config={"schema_version": 1}, data_position={}, metrics=metrics, files={}
  )
  step_folders.write_plain(folder / str(step), contents)
  if is_finished:
    (folder / str(step) / "arrays").touch()
    write_manifest(folder / str(step), extra={"step": step})


def test_only_whole_numbers_with_a_manifest_are_finished(tmp_path):
  for step in (100, 20, 3):
    add_step(tmp_path, step)
  add_step(tmp_path, 40, is_finished=False)
  for name in ("007", "x", "5.orbax-checkpoint-tmp", "6.deleting"):
    (tmp_path / name).mkdir()
    (tmp_path / name / "manifest.json").write_text("{}")
  # As a save that was interrupted before its arrays were there.
  add_step(tmp_path, 50)
  (tmp_path / "50" / "arrays").unlink()
  write_manifest(tmp_path / "50", extra={"step": 50})
  assert step_folders.finished_steps(tmp_path) == [3, 20, 100]
  assert step_folders.unfinished_steps(tmp_path) == [40, 50]


def test_a_link_to_a_step_is_removed_and_not_what_it_links_to(tmp_path):
  add_step(tmp_path, 1)
  (tmp_path / "2").symlink_to(tmp_path / "1")
  step_folders.delete_steps(tmp_path, [2])
  assert [path.name for path in tmp_path.iterdir()] == ["1"]
  step_folders.verify_step(tmp_path, 1)


@pytest.mark.parametrize(("is_higher", "best"), [(True, 20), (False, 10)])
def test_the_best_step_ignores_what_is_not_finite(tmp_path, is_higher, best):
  values = {5: float("nan"), 10: 1.0, 20: 3.0, 30: 3.0, 40: 1.0}
  for step, value in values.items():
    add_step(tmp_path, step, metrics={"score": value})
  add_step(tmp_path, 50, metrics={"other": 9.0})
  add_step(tmp_path, 60)
  steps = step_folders.finished_steps(tmp_path)
  kind = {"metric": "score", "is_higher": is_higher}
  assert step_folders.best_of(tmp_path, steps, **kind) == (best, [])
  assert step_folders.best_of(tmp_path, [5, 50, 60], **kind) == (None, [])
  path = tmp_path / str(best) / "plain" / "metrics.json"
  path.write_text(path.read_text().replace("0", "1"))
  found, damaged = step_folders.best_of(tmp_path, steps, **kind)
  assert (found, damaged) == ({20: 30, 10: 40}[best], [best])


def test_an_interrupted_deletion_is_no_step_and_is_finished_later(
  tmp_path, monkeypatch
):
  add_step(tmp_path, 1)
  add_step(tmp_path, 2)

  def killed(*_, **__):
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
      step_folders.delete_steps(tmp_path, [1])
  assert step_folders.finished_steps(tmp_path) == [2]
  assert step_folders.unfinished_steps(tmp_path) == []
  (tmp_path / "notes.deleting").mkdir()  # not a step: not ours to remove
  # Orbax's name of a step whose arrays were never finished.
  (tmp_path / "3.orbax-checkpoint-tmp" / "ema").mkdir(parents=True)
  step_folders.finish_deleting(tmp_path)
  assert sorted(p.name for p in tmp_path.iterdir()) == ["2", "notes.deleting"]


def test_a_step_that_cannot_be_deleted_yet_is_reported(
  tmp_path, monkeypatch, caplog
):
  add_step(tmp_path, 1)
  monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)
  step_folders.delete_steps(tmp_path, [1])
  assert "could not be deleted" in caplog.text


def test_setting_aside_frees_the_number_and_loses_nothing(tmp_path):
  for expected in ("7.unfinished-0", "7.unfinished-1"):
    add_step(tmp_path, 7, is_finished=False)
    new = step_folders.set_aside(tmp_path, 7, "unfinished")
    assert new == tmp_path / expected
    assert (new / "plain" / "config.json").is_file()
  assert step_folders.unfinished_steps(tmp_path) == []
