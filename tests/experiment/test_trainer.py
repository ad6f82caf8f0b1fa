"""`ddit train` in this process: what it writes, and resuming exactly."""

import contextlib
import json
import os
import shutil
import signal
import threading

import jax
import numpy as np
import pytest

from ddit_jax.config.load import from_dict
from ddit_jax.errors import InputError
from ddit_jax.experiment.config import Config
from ddit_jax.experiment.state_source import StateSource
from ddit_jax.experiment.trainer import Trainer, train
from ddit_jax.train.loop import StopSignal
from tests import tiny_run

NUM_STEPS = tiny_run.NUM_STEPS


class Crash(BaseException):
  """Ends a run as nothing in the package expects it."""


@contextlib.contextmanager
def at_step(step: int, act):
  """Runs `act` after the update of `step`, before anything is written."""
  real = StopSignal.is_requested

  def is_requested(self, now):
    if now == step:
      act()
    return real(self, now)

  with pytest.MonkeyPatch.context() as monkeypatch:
    monkeypatch.setattr(StopSignal, "is_requested", is_requested)
    yield


def crash():
  raise Crash


def terminate():
  os.kill(os.getpid(), signal.SIGTERM)


def saved_steps(workdir):
  return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())


@pytest.fixture
def no_compute(monkeypatch):
  """Fails the test if a run gets as far as compiling anything."""

  def compiled(*_, **__):
    raise AssertionError("compiled something")

  monkeypatch.setattr(StateSource, "initialise", compiled)
  monkeypatch.setattr(Trainer, "fit", compiled)


@pytest.fixture
def copy(trained, tmp_path):
  """A workdir like `trained` that may be changed."""
  return shutil.copytree(trained, tmp_path / "copy")


def test_the_workdir_holds_checkpoints_losses_and_settings(trained):
  assert saved_steps(trained) == [2, 4, 6]
  saved = json.loads((trained / "config.json").read_text())
  # A CPU's compiler gets no options, and the file says so.
  assert saved["train"]["compiler_options"] == "none"
  assert from_dict(Config, saved) == tiny_run.settings().for_chip("cpu")
  assert list((trained / "tensorboard").iterdir())
  losses = tiny_run.logged_losses(trained)
  logged = [step for step, name, _ in losses if name == "loss/total"]
  assert logged == [1, 2, 3, 4, 5, 6]
  checked = [step for step, name, _ in losses if name == "validation/total"]
  assert checked == [4, 6]
  weight = tiny_run.settings().loss.text_weight
  by_name = {(step, name): value for step, name, value in losses}
  for step in logged:
    image, text = (by_name[step, f"loss/{x}"] for x in ("image", "text"))
    np.testing.assert_allclose(
      by_name[step, "loss/total"], image + weight * text, rtol=1e-6
    )


def test_a_checkpoint_carries_the_losses_of_its_own_step_only(trained):
  for step in (2, 4, 6):
    path = trained / "checkpoints" / str(step) / "plain" / "metrics.json"
    if step == 2:
      assert not path.exists()
      continue
    losses = json.loads(path.read_text())
    assert losses["validation/total"] == next(
      value
      for at, name, value in tiny_run.logged_losses(trained)
      if (at, name) == (step, "validation/total")
    )


def test_every_step_reads_the_next_records(trained):
  for step in (2, 4, 6):
    position = tiny_run.data_position(trained, step)
    assert sorted(position) == ["image_to_text", "text_to_image"]
    assert all(len(state) == 1 for state in position.values())
  first, second = (
    tiny_run.data_position(trained, step)["text_to_image"] for step in (2, 4)
  )
  [(name, number)] = first.items()
  assert second == {name: 2 * number}


@pytest.mark.usefixtures("on_one_device")
def test_a_run_that_crashes_twice_ends_bit_identical(trained, tmp_path, caplog):
  settings = tiny_run.settings()
  # Before any checkpoint, and between two.
  for step in (1, 5):
    with at_step(step, crash), pytest.raises(Crash):
      train(settings, str(tmp_path))
  caplog.clear()
  caplog.set_level("INFO", "ddit_jax")
  train(settings, str(tmp_path))
  assert f"resuming {tmp_path} at step 4 of 6" in caplog.messages
  [times] = [line for line in caplog.messages if "first step after" in line]
  phases = ("data", "restore", "lower", "compile", "first step")
  assert all(f" {phase} " in times for phase in phases)
  tiny_run.assert_bit_identical(tmp_path, trained, NUM_STEPS)


@pytest.mark.usefixtures("on_one_device")
def test_sigterm_saves_the_step_it_stopped_at_and_loses_nothing(
  trained, tmp_path
):
  settings = tiny_run.settings()
  with at_step(3, terminate):
    assert not train(settings, str(tmp_path))
  assert saved_steps(tmp_path) == [2, 3]
  losses = tiny_run.logged_losses(tmp_path)
  reference = tiny_run.logged_losses(trained)
  # Up to step 3, without an extra validation on the way out.
  assert losses == [line for line in reference if line[0] <= 3]
  assert train(settings, str(tmp_path))
  tiny_run.assert_bit_identical(tmp_path, trained, NUM_STEPS)
  assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.slow
def test_the_second_half_on_eight_devices_agrees(trained, copy, caplog):
  shutil.rmtree(copy / "checkpoints" / "6")
  shutil.rmtree(copy / "checkpoints" / "4")
  caplog.set_level("INFO", "ddit_jax")
  train(tiny_run.settings(), str(copy))
  assert "on 8 devices" in caplog.text and "at step 2 of 6" in caplog.text
  ours = tiny_run.stored_arrays(copy, NUM_STEPS)
  theirs = tiny_run.stored_arrays(trained, NUM_STEPS)
  for name, array in theirs.items():
    # Sums over rows are added in another order: 1.8e-6 after four steps.
    np.testing.assert_allclose(ours[name], array, rtol=0, atol=1e-5)


def test_a_finished_run_is_left_alone(copy, caplog):
  before = tiny_run.logged_losses(copy)
  caplog.set_level("INFO", "ddit_jax")
  assert train(tiny_run.settings(), str(copy))
  assert f"{copy} is complete: step 6 is the last" in caplog.messages
  assert saved_steps(copy) == [2, 4, 6]
  assert tiny_run.logged_losses(copy) == before


def edit_saved_config(workdir, **changes):
  """Rewrites the newest checkpoint's config, with a manifest that agrees."""
  from ddit_jax.checkpoint.manifest import write_manifest

  step = workdir / "checkpoints" / tiny_run.LAST_STEP
  path = step / "plain" / "config.json"
  path.write_text(json.dumps(json.loads(path.read_text()) | changes))
  write_manifest(step, extra={"step": NUM_STEPS})


@pytest.mark.usefixtures("no_compute")
class TestRefused:
  """Runs that must not even begin."""

  def refused(self, workdir, **overrides):
    with pytest.raises(InputError) as caught:
      train(tiny_run.settings(**overrides), str(workdir))
    assert "\n" not in str(caught.value)
    return str(caught.value)

  def test_other_settings_than_the_run_began_with(self, copy):
    line = self.refused(copy, model__size="small")
    assert line == (
      f"{copy} holds a run with other settings (model.size was 'tiny' and is "
      "'small'): restore them, accept them with "
      "--config.resume_changes=model.size, or choose another --workdir"
    )
    line = self.refused(copy, seed="1", loss__text_weight="1.0")
    assert (
      "(loss.text_weight was " in line and " and is 1.0 and 1 more)" in line
    )

  def test_a_run_of_a_future_release(self, copy):
    edit_saved_config(copy, schema_version=4, hologram=True)
    assert self.refused(copy) == (
      f"the run in {copy} has schema_version 4, this ddit_jax reads version 3: "
      "install the release that wrote it"
    )

  def test_a_checkpoint_of_another_model_with_the_same_settings(
    self, copy, monkeypatch
  ):
    from ddit_jax.models import config

    wider = {**config.SIZES, "tiny": config.size("tiny", width=128)}
    monkeypatch.setattr(config, "SIZES", wider)
    assert "is a checkpoint of another model; item 'params'" in self.refused(
      copy
    )

  def test_fewer_steps_than_are_done(self, copy):
    line = self.refused(copy, train__num_steps="5")
    assert "is at step 6, beyond train.num_steps = 5: raise it or" in line

  def test_a_batch_that_the_mesh_does_not_divide(self, tmp_path):
    assert self.refused(tmp_path, data__text_to_image__batch_size="12") == (
      "data.text_to_image.batch_size = 12 is not divisible by replica x fsdp = "
      "8 of the mesh; use a multiple of 8"
    )

  def test_a_mesh_that_the_devices_do_not_fill(self, tmp_path):
    line = self.refused(tmp_path, mesh__fsdp="3")
    assert "needs 3 devices but there are 8" in line

  @pytest.mark.parametrize(
    ("overrides", "message"),
    [
      (
        {"data__world": "one_digt"},
        "data.world 'one_digt' is unknown: did you ",
      ),
      ({"model__size": "huge"}, "unknown model size 'huge'; there are ['"),
      (
        {"model__execution__dtype": "float8"},
        "dtype must be one of ('float32', 'bfloat16'), got",
      ),
      (
        {"model__execution__attention_kernel": "fast"},
        "attention_kernel must be one of ('auto', 'xla', 'chunked', ",
      ),
      (
        {"model__execution__attention_kernel": "splash"},
        "'splash' runs on a tpu, not on a cpu: set it to",
      ),
      (
        {"model__execution__attention_kernel": "ring"},
        "'ring' needs tokens that are split: set mesh.context above 1",
      ),
      (
        {"loss__masked_diffusion__mask_count": "all"},
        "mask_count must be one of",
      ),
      ({"loss__condition_dropout": "2"}, "must be in [0, 1], got 2"),
      ({"train__compiler_options": "fast"}, "must be chip, none or NAME=VALUE"),
      ({"train__compiler_options": "xla_x=1"}, "No such compile option"),
      (
        {"data__image_to_text__mixture__0__caption": "-1"},
        "the weight of 'caption' is -1",
      ),
      (
        {
          "data__image_to_text__text_length": "2",
          "data__text_to_image__text_length": "2",
        },
        "shorten it, or train with a larger",
      ),
      (
        {"data__image_to_text__text_length": "12"},
        "loss.is_merged needs tasks of equal shapes",
      ),
      ({"data__world": "scenes_48"}, "position table ends at 16"),
    ],
  )
  def test_values_that_no_part_accepts(
    self, tmp_path, overrides, message, unchecked_shapes
  ):
    assert message in self.refused(tmp_path, **overrides)

  def test_a_workdir_below_a_regular_file(self, tmp_path):
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "run"
    assert self.refused(path) == (
      f"the workdir {path} cannot be written (Not a directory): choose another "
      "--workdir"
    )

  def test_checkpoints_that_are_no_folder(self, tmp_path):
    (tmp_path / "checkpoints").touch()
    assert "File exists" in self.refused(tmp_path)


def test_a_run_leaves_no_threads_behind(copy):
  before = set(threading.enumerate())
  train(tiny_run.settings(), str(copy))
  left = set(threading.enumerate()) - before
  assert [thread.name for thread in left if not thread.daemon] == []


def test_validation_losses_depend_on_the_weights_alone(trained):
  """The EMA parameters of a step always give the same losses."""
  settings = tiny_run.settings()
  assert settings.train.validate_every == 4
  lines = [x for x in tiny_run.logged_losses(trained) if "valid" in x[1]]
  assert len({value for _, _, value in lines}) == len(lines)
  assert "validation/total" in {name for _, name, _ in lines}
  assert all(np.isfinite(value) for _, _, value in lines)
  assert jax.device_count() == 8
