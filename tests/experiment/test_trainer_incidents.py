"""Runs whose losses go wrong: what is kept, listed and rolled back."""

import dataclasses
import json
import resource
import shutil
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from ddit_jax.config.load import load_config
from ddit_jax.data.bad_records import TooManyBadRecords
from ddit_jax.errors import InputError
from ddit_jax.experiment import trainer
from ddit_jax.experiment.config import Config
from ddit_jax.experiment.trainer import Trainer, train
from ddit_jax.losses.dual import DualLoss
from ddit_jax.train.hooks import LossGuard
from tests import tiny_run

pytestmark = pytest.mark.usefixtures("on_one_device")


def breaking_batches(settings, is_broken):
  """Latents become infinite where a function of the step's index says so.

  Validation has the index 0.
  """

  class BreakingLoss(DualLoss):
    def corrupt(self, batch, root, step, **options):
      found = super().corrupt(batch, root, step, **options)
      latents = jnp.where(is_broken(step), jnp.inf, found.images.latents)
      return found.replace(images=found.images.replace(latents=latents))

  loss = BreakingLoss(**vars(settings.loss))
  return dataclasses.replace(settings, loss=loss)


def incidents(workdir):
  lines = (workdir / "incidents.jsonl").read_text().splitlines()
  return [json.loads(line) for line in lines]


def parameters(workdir, step):
  arrays = tiny_run.stored_arrays(workdir, step)
  return {k: v for k, v in arrays.items() if not k.startswith("progress")}


def test_a_broken_batch_is_left_out_and_its_records_are_listed(tmp_path):
  settings = breaking_batches(tiny_run.settings(), lambda step: step == 3)
  assert train(settings, str(tmp_path))
  (event,) = incidents(tmp_path)
  assert (event["event"], event["step"]) == ("skipped_batch", 4)
  assert event["losses"]["loss/total"] in ("nan", "inf")
  assert sorted(event["records"]) == ["image_to_text", "text_to_image"]
  for records in event["records"].values():
    assert len(records) == 8 and all("record " in one for one in records)
  arrays = tiny_run.stored_arrays(tmp_path, tiny_run.NUM_STEPS)
  assert all(np.isfinite(array).all() for array in arrays.values())
  counts = [v for k, v in arrays.items() if k.endswith("['num_skipped']")]
  assert counts == [1]


@pytest.mark.slow
def test_too_many_in_a_row_stop_the_run_and_keep_what_was_learnt(
  tmp_path, trained
):
  settings = tiny_run.settings(train__max_skipped_in_row="1")
  settings = breaking_batches(settings, lambda step: step >= 3)
  with pytest.raises(InputError) as caught:
    train(settings, str(tmp_path))
  line = str(caught.value)
  assert "2 batches in a row up to step 5" in line and "\n" not in line
  assert "train.max_skipped_in_row is 1" in line
  assert len(incidents(tmp_path)) == 2
  saved = sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir())
  kept = parameters(tmp_path, saved[-1])
  assert saved[-1] > 3
  assert all(np.isfinite(array).all() for array in kept.values())
  # Three good steps, of which the second was saved too.
  second = parameters(trained, 2)
  assert any((kept[name] != second[name]).any() for name in second)


@pytest.fixture
def one_spike(monkeypatch):
  """The fifth loss that is looked at counts as a spike, once."""
  calls = []

  def is_spike(self, loss):
    calls.append(loss)
    return len(calls) == 5

  monkeypatch.setattr(LossGuard, "_is_spike", is_spike)


@pytest.mark.usefixtures("one_spike")
def test_a_spike_goes_back_to_the_checkpoint_and_past_the_batch(
  tmp_path, trained
):
  settings = tiny_run.settings(train__spike_factor="2.0")
  assert train(settings, str(tmp_path))
  (event,) = incidents(tmp_path)
  assert (event["event"], event["step"], event["to_step"]) == ("rollback", 5, 4)
  # Five batches, then two more for steps 5 and 6.
  position = tiny_run.data_position(tmp_path, 6)["text_to_image"]
  assert list(position.values()) == [7 * 8]
  ours, theirs = (tiny_run.stored_arrays(w, 4) for w in (tmp_path, trained))
  assert [n for n in theirs if ours[n].tobytes() != theirs[n].tobytes()] == []
  steps = [
    step
    for step, name, _ in tiny_run.logged_losses(tmp_path)
    if name == "loss/total"
  ]
  assert steps == [1, 2, 3, 4, 5, 6]


@pytest.mark.usefixtures("one_spike")
def test_one_rollback_too_many_stops_the_run(tmp_path):
  settings = tiny_run.settings(
    train__spike_factor="2.0", train__max_rollbacks="0"
  )
  with pytest.raises(InputError, match=r"train\.max_rollbacks = 0"):
    train(settings, str(tmp_path))


def test_without_a_checkpoint_there_is_nothing_to_go_back_to(
  tmp_path, monkeypatch
):
  def is_spike(self, loss):
    return len(self._recent) == 1

  monkeypatch.setattr(LossGuard, "_is_spike", is_spike)
  settings = tiny_run.settings(train__spike_factor="2.0")
  with pytest.raises(InputError, match="no checkpoint yet to roll back to"):
    train(settings, str(tmp_path))


def test_a_disk_without_room_for_a_checkpoint_is_refused_at_once(
  tmp_path, monkeypatch
):
  def no_run(*_):
    raise AssertionError("compiled something")

  monkeypatch.setattr(Trainer, "fit", no_run)
  usage = type("Usage", (), {"free": 10_000})
  monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
  with pytest.raises(InputError, match=r"GB to write, 1e-05 GB are free"):
    train(tiny_run.settings(), str(tmp_path))


@pytest.mark.parametrize(
  ("error", "part"),
  [
    (OSError(28, "No space left on device"), "the checkpoint of step 2 is"),
    (TooManyBadRecords("3 of 10 records are bad"), "3 of 10 records are bad"),
  ],
)
def test_what_stops_a_run_midway_is_one_line(
  tmp_path, monkeypatch, error, part
):
  real = trainer.StepLog.__call__

  def logged(self, progress):
    if progress.step == 4:
      raise error
    real(self, progress)

  monkeypatch.setattr(trainer.StepLog, "__call__", logged)
  with pytest.raises(InputError) as caught:
    train(tiny_run.settings(), str(tmp_path))
  assert part in str(caught.value) and "\n" not in str(caught.value)
  monkeypatch.undo()


def test_another_error_is_not_dressed_up(tmp_path, monkeypatch):
  def broken(self, progress):
    raise OSError(5, "Input/output error")

  monkeypatch.setattr(trainer.StepLog, "__call__", broken)
  with pytest.raises(OSError, match="Input/output error"):
    train(tiny_run.settings(), str(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("start", [None, "lora"])
@pytest.mark.usefixtures("one_spike")
def test_a_rollback_keeps_what_is_frozen(tmp_path, trained, start):
  """Encoders, or the network under adapters, which the step is given away."""
  if start is None:
    overrides = {"train.num_steps": "6", "train.spike_factor": "2.0"}
    settings = load_config(Config, "configs/ddit_sd3.py:stage2_dry", overrides)
  else:
    settings = tiny_run.settings(
      train__spike_factor="2.0", lora__rank="2", init_from=str(trained)
    )
  assert train(settings, str(tmp_path))
  (event,) = incidents(tmp_path)
  assert event["event"] == "rollback"
  arrays = tiny_run.stored_arrays(tmp_path, 6)
  assert all(np.isfinite(array).all() for array in arrays.values())


@pytest.mark.slow
def test_a_validation_loss_that_is_not_finite_does_not_stop_the_run(
  tmp_path,
):
  settings = breaking_batches(tiny_run.settings(), lambda step: step == 0)
  assert train(settings, str(tmp_path))
  assert [event["step"] for event in incidents(tmp_path)] == [1]


@pytest.mark.slow
def test_a_full_disk_is_one_line(tmp_path):
  """Files may not grow beyond what one array of the checkpoint takes."""

  def limit():
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

  done = subprocess.run(
    [
      *(sys.executable, "-m", "ddit_jax", "train", f"--workdir={tmp_path}"),
      *tiny_run.flags(),
    ],
    cwd=tiny_run.ROOT,
    preexec_fn=limit,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 2, done.stderr
  line = done.stderr.strip().splitlines()[-1]
  assert "the workdir is no longer writable (File too large)" in line
  assert "no checkpoint was finished: free some space" in line
