"""Jobs of several stages: order, starting weights, going on after a kill."""

import dataclasses
import json
import os
import pathlib
import shutil
import signal

import numpy as np
import pytest

from ddit_jax.config.load import load_job
from ddit_jax.errors import InputError
from ddit_jax.experiment import trainer
from ddit_jax.experiment.config import Config
from ddit_jax.experiment.stages import train_stages
from ddit_jax.experiment.trainer import Trainer
from ddit_jax.train.loop import StopSignal
from tests import tiny_run

pytestmark = pytest.mark.usefixtures("on_one_device")


class Crash(BaseException):
  """Ends a run as nothing in the package expects it."""


@pytest.fixture
def crash_at(monkeypatch):
  """Crashes once, after so many updates of all stages together."""

  def arm(number):
    left = [number]

    def is_requested(self, step):
      left[0] -= 1
      if left[0] == 0:
        raise Crash
      return False

    monkeypatch.setattr(StopSignal, "is_requested", is_requested)

  return arm


def two_stages(**overrides):
  """Of six steps each, which are one program."""
  # "chip" is saved as what it means on the machine.
  overrides = {"model__execution__remat": "chip"} | overrides
  first = tiny_run.settings(**overrides)
  second = tiny_run.settings(init_from="stage:first", **overrides)
  return {"first": first, "second": second}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """The undisturbed job. Not to be changed."""
  with pytest.MonkeyPatch.context() as monkeypatch:
    tiny_run.use_first_device(monkeypatch)
    workdir = tmp_path_factory.mktemp("stages")
    # As people write it.
    monkeypatch.chdir(workdir.parent)
    assert train_stages(two_stages(), workdir.name)
  return workdir


def test_each_stage_starts_from_the_average_of_the_one_before(finished):
  before = tiny_run.stored_arrays(finished / "first", 6)
  config = json.loads((finished / "second" / "config.json").read_text())
  # Not a path: the job may be moved.
  assert config["init_from"] == "stage:first"
  second = tiny_run.stored_arrays(finished / "second", 2)
  name = next(k for k in before if k.startswith("ema") and "patch" in k)
  # Two small steps away; a fresh start would be elsewhere altogether.
  moved = np.abs(second[name.replace("ema", "params", 1)] - before[name]).max()
  assert 0 < moved < 0.01


@pytest.mark.slow
@pytest.mark.parametrize("number", [3, 9])
def test_a_job_killed_in_either_stage_ends_bit_identical(
  finished, tmp_path, crash_at, number, monkeypatch, caplog
):
  crash_at(number)
  with pytest.raises(Crash):
    train_stages(two_stages(), str(tmp_path))
  monkeypatch.setattr(StopSignal, "is_requested", lambda self, step: False)
  caplog.set_level("INFO", "ddit_jax")
  train_stages(two_stages(), str(tmp_path))
  is_first_done = number > 6
  line = "first is complete: step 6 was its last"
  assert (line in caplog.messages) == is_first_done
  assert (
    f"resuming {tmp_path / ('second' if is_first_done else 'first')} at"
    in (caplog.text)
  )
  for stage in ("first", "second"):
    tiny_run.assert_bit_identical(tmp_path / stage, finished / stage, 6)


def test_a_job_may_be_moved(finished, tmp_path, caplog):
  shutil.copytree(finished, tmp_path / "moved")
  shutil.rmtree(tmp_path / "moved" / "second" / "checkpoints" / "6")
  caplog.set_level("INFO", "ddit_jax")
  train_stages(two_stages(), str(tmp_path / "moved"))
  assert "at step 4 of 6" in caplog.text


def test_a_stage_whose_weights_are_damaged_is_trained_to_its_end_again(
  finished, tmp_path, monkeypatch
):
  trained = []

  def train(config, workdir, **_):
    trained.append(pathlib.Path(workdir).name)
    return True

  monkeypatch.setattr(trainer, "train", train)
  shutil.copytree(finished / "first", tmp_path / "first")
  train_stages(two_stages(), str(tmp_path))
  assert trained == ["second"]
  for path in (tmp_path / "first" / "checkpoints" / "6").rglob("d/*"):
    path.write_bytes(bytes(path.stat().st_size))
  train_stages(two_stages(), str(tmp_path))
  assert trained == ["second", "first", "second"]


def test_a_stop_during_the_last_step_ends_the_job(tmp_path, monkeypatch):
  real = Trainer._save

  def save(*args):
    os.kill(os.getpid(), signal.SIGTERM)
    real(*args)

  monkeypatch.setattr(Trainer, "_save", save)
  stages = two_stages(train__checkpoint_every="6")
  assert not train_stages(stages, str(tmp_path))
  assert (tmp_path / "first" / "checkpoints" / "6").is_dir()
  assert not (tmp_path / "second").exists()


def test_a_later_stages_data_is_looked_at_before_the_first(
  tmp_path, monkeypatch
):
  def train(*_, **__):
    raise AssertionError("began to train")

  monkeypatch.setattr(trainer, "train", train)
  stages = two_stages()
  sources = {"mine": {"kind": "image_folder", "path": "no/such/folder"}}
  data = dataclasses.replace(stages["second"].data, sources=sources)
  stages["second"] = dataclasses.replace(stages["second"], data=data)
  message = r"stages\.second: mine: .*no/such/folder"
  with pytest.raises(InputError, match=message):
    train_stages(stages, str(tmp_path))


def test_a_stop_signal_ends_the_job_and_not_only_the_stage(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(StopSignal, "is_requested", lambda self, step: step == 2)
  assert not train_stages(two_stages(), str(tmp_path))
  assert not (tmp_path / "second").exists()


def test_a_stage_that_is_not_before_is_refused(tmp_path):
  stages = two_stages()
  with pytest.raises(InputError, match="the stages before it are none"):
    train_stages({"second": stages["second"]}, str(tmp_path))


def test_a_change_to_a_finished_stage_is_refused(finished):
  stages = two_stages(loss__text_weight="1.0")
  with pytest.raises(InputError, match=r"loss\.text_weight was"):
    train_stages(stages, str(finished))


def test_more_steps_of_an_early_stage_are_refused_once_the_next_is_done(
  finished,
):
  stages = two_stages()
  longer = two_stages(train__num_steps="7")["first"]
  with pytest.raises(InputError, match="first before them is not"):
    train_stages(stages | {"first": longer}, str(finished))


@pytest.mark.slow
@pytest.mark.parametrize("number", [2, 7, 11, 14])
def test_the_recipe_killed_in_any_stage_ends_bit_identical(
  recipe, tmp_path, crash_at, number, monkeypatch
):
  crash_at(number)
  stages = load_job(Config, "configs/ddit_sd3.py:all_dry", {})
  with pytest.raises(Crash):
    train_stages(stages, str(tmp_path))
  monkeypatch.setattr(StopSignal, "is_requested", lambda self, step: False)
  train_stages(stages, str(tmp_path))
  for stage in stages:
    tiny_run.assert_bit_identical(tmp_path / stage, recipe / stage, 4)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
  """The undisturbed four stages at toy size."""
  with pytest.MonkeyPatch.context() as monkeypatch:
    tiny_run.use_first_device(monkeypatch)
    workdir = tmp_path_factory.mktemp("recipe")
    train_stages(
      load_job(Config, "configs/ddit_sd3.py:all_dry", {}), str(workdir)
    )
  return workdir
