"""Which step folders count, and what deleting leaves behind."""

import shutil

import pytest

from ddit_jax.checkpoint import store


def add_step(folder, step, *, metrics=None, is_finished=True):
  contents = store.encode_plain(
    config={"schema_version": 1}, data_position={}, metrics=metrics, files={}
  )
  store.write_plain(folder / str(step), contents)
  if is_finished:
    (folder / str(step) / "manifest.json").write_text("{}")


def test_only_whole_numbers_with_a_manifest_are_finished(tmp_path):
  for step in (100, 20, 3):
    add_step(tmp_path, step)
  add_step(tmp_path, 40, is_finished=False)
  for name in ("007", "x", "5.orbax-checkpoint-tmp", "6.deleting"):
    (tmp_path / name).mkdir()
    (tmp_path / name / "manifest.json").write_text("{}")
  assert store.finished_steps(tmp_path) == [3, 20, 100]
  assert store.unfinished_steps(tmp_path) == [40]


@pytest.mark.parametrize(("is_higher", "best"), [(True, 20), (False, 10)])
def test_the_best_step_ignores_what_is_not_finite(tmp_path, is_higher, best):
  values = {5: float("nan"), 10: 1.0, 20: 3.0, 30: 3.0, 40: 1.0}
  for step, value in values.items():
    add_step(tmp_path, step, metrics={"score": value})
  add_step(tmp_path, 50, metrics={"other": 9.0})
  add_step(tmp_path, 60)
  steps = store.finished_steps(tmp_path)
  found = store.best_of(tmp_path, steps, metric="score", is_higher=is_higher)
  assert found == best
  assert (
    store.best_of(tmp_path, [5, 50, 60], metric="score", is_higher=is_higher)
    is None
  )


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
      store.delete_steps(tmp_path, [1])
  assert store.finished_steps(tmp_path) == [2]
  assert store.unfinished_steps(tmp_path) == []
  (tmp_path / "notes.deleting").mkdir()  # not a step: not ours to remove
  store.finish_deleting(tmp_path)
  assert sorted(p.name for p in tmp_path.iterdir()) == ["2", "notes.deleting"]


def test_a_step_that_cannot_be_deleted_yet_is_reported(
  tmp_path, monkeypatch, caplog
):
  add_step(tmp_path, 1)
  monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)
  store.delete_steps(tmp_path, [1])
  assert "could not be deleted" in caplog.text


def test_setting_aside_frees_the_number_and_loses_nothing(tmp_path):
  for expected in ("7.unfinished-0", "7.unfinished-1"):
    add_step(tmp_path, 7, is_finished=False)
    new = store.set_aside(tmp_path, 7)
    assert new == tmp_path / expected
    assert (new / "plain" / "config.json").is_file()
  assert store.unfinished_steps(tmp_path) == []
