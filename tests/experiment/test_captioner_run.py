"""Runs of captioners on the features of a tiny D-DiT: resuming, sampling."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

import ddit_jax
from ddit_jax.errors import InputError
from ddit_jax.experiment.layer_probe import probe_layers
from ddit_jax.experiment.trainer import train
from ddit_jax.pipelines.captioner import CaptionerPipeline
from ddit_jax.pipelines.evaluate import evaluate
from tests import tiny_run
from tests.experiment import cached_run

# Each run compiles its step: half a minute in all.
pytestmark = pytest.mark.slow

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)


def settings(features, **changes):
  return tiny_run.settings(
    data__text_to_image__batch_size="0",
    loss__is_merged="False",
    captioner__features="mmdit",
    captioner__features_from=str(features),
    captioner__layer="3",
    captioner__decoder="tiny",
    **{"train__num_steps": "4", "train__sample_grid_size": "2"} | changes,
  )


@pytest.fixture(scope="module")
def one_device():
  with pytest.MonkeyPatch.context() as monkeypatch:
    tiny_run.use_first_device(monkeypatch)
    yield


@pytest.fixture(scope="module")
def frozen(trained, tmp_path_factory, one_device):
  """The workdir of an undisturbed captioner of frozen features."""
  workdir = tmp_path_factory.mktemp("captioner") / "frozen"
  assert train(settings(trained), str(workdir))
  return workdir


def resumed(workdir, settings, monkeypatch):
  """Trains two steps, then the others in a second start."""
  from ddit_jax.train.loop import StopSignal

  with monkeypatch.context() as patch:
    patch.setattr(StopSignal, "is_requested", lambda self, step: step == 2)
    train(settings, str(workdir))
  assert train(settings, str(workdir))


def test_a_captioner_of_frozen_features_resumes_exactly(
  frozen, trained, tmp_path, monkeypatch
):
  resumed(tmp_path / "run", settings(trained), monkeypatch)
  tiny_run.assert_bit_identical(tmp_path / "run", frozen, 4)
  names = tiny_run.stored_arrays(frozen, 4)
  # Frozen features are in no checkpoint.
  assert not any("image_encoder" in name for name in names)
  losses = tiny_run.logged_losses(frozen)
  assert {name for _, name, _ in losses} == {
    "grad_norm",
    *("loss/text", "loss/total"),
    *("validation/text", "validation/total"),
  }


def test_frozen_features_must_stay_the_same(frozen, trained, tmp_path):
  features = shutil.copytree(trained, tmp_path / "features")
  workdir = shutil.copytree(frozen, tmp_path / "run")
  shutil.rmtree(features / "checkpoints" / tiny_run.LAST_STEP)
  changed = settings(features, resume_changes="captioner.features_from")
  with pytest.raises(InputError, match="holds other parameters than"):
    train(changed, str(workdir))


def test_captions_do_not_depend_on_the_batch_and_widen_with_the_beam(frozen):
  pipeline = ddit_jax.load(str(frozen))
  assert isinstance(pipeline, CaptionerPipeline)
  together = pipeline.caption(IMAGES)
  one_by_one = [
    pipeline.caption(IMAGES[[row]], indices=[row])[0] for row in range(3)
  ]
  assert together == one_by_one
  search = jax.jit(pipeline.model.captions, static_argnames=("length", "width"))
  inputs = pipeline.variables, IMAGES, jax.random.split(jax.random.key(0), 3)
  found = {
    width: search(*inputs, length=6, width=width).log_likelihood
    for width in (1, 8)
  }
  assert (found[8] >= found[1] - 1e-4).all()
  with pytest.raises(InputError, match=r"does not use text\.order"):
    pipeline.caption(IMAGES, sample={"text.order": "confidence"})


def test_evaluation_judges_the_captions(frozen, tmp_path):
  config = settings("", evaluate__num_captions="8", evaluate__is_full="True")
  evaluate(
    config, str(frozen), out=str(tmp_path / "e"), weights="ema", step=None
  )
  metrics = json.loads((tmp_path / "e" / "metrics.json").read_text())["metrics"]
  assert {name.split("/")[0] for name in metrics} == {"caption", "judged"}
  assert metrics["judged/accuracy"]["oracle"] == 1.0
  assert (tmp_path / "e" / "report.html").is_file()
  assert not (tmp_path / "e" / "tables.md").exists()


def test_a_captioner_of_trained_features_resumes_without_them(
  trained, tmp_path, monkeypatch, one_device
):
  features = shutil.copytree(trained, tmp_path / "features")
  config = settings(
    features, captioner__is_reader_trained="True", captioner__sigma="0.3"
  )
  assert train(config, str(tmp_path / "whole"))
  resumed(tmp_path / "parts", config, monkeypatch)
  tiny_run.assert_bit_identical(tmp_path / "parts", tmp_path / "whole", 4)
  shutil.rmtree(features)
  pipeline = ddit_jax.load(str(tmp_path / "parts"))
  assert len(pipeline.caption(IMAGES)) == 3
  arrays = tiny_run.stored_arrays(tmp_path / "whole", 4)
  start = tiny_run.stored_arrays(trained, 6)
  name = "params['{}blocks']['image']['qkv']['kernel']"
  before = start["ema" + name.format("").removeprefix("params")]
  after = arrays[name.format("image_encoder']['")]
  # Three of the four blocks, which have moved a little from their start.
  assert after.shape == before[:3].shape
  assert 0 < np.abs(after - before[:3]).max() < 0.1


def test_a_captioner_learns_from_files(trained, tmp_path, one_device):
  """Sources of images, unlike the digit world, say which rows have one."""
  cached_run.write_pictures(tmp_path / "pictures")
  base = settings(trained, train__num_steps="2", train__sample_grid_size="0")
  source = {
    "kind": "image_folder",
    "path": str(tmp_path / "pictures" / "plain"),
    "filters": {"min_short_side": 1},
  }
  task = dataclasses.replace(
    base.data.image_to_text, image_size=16, mixture={"0": {"plain": 1.0}}
  )
  data = dataclasses.replace(
    base.data, sources={"plain": source}, max_bad_share=0.5, image_to_text=task
  )
  assert train(dataclasses.replace(base, data=data), str(tmp_path / "run"))


def test_layers_are_compared(trained, tmp_path, one_device):
  config = settings(trained, train__sample_grid_size="0")
  assert probe_layers(config, str(tmp_path), [1, 4])
  found = json.loads((tmp_path / "layers.json").read_text())
  assert found["layer"] == [1, 4]
  assert found["validation_loss"][0] != found["validation_loss"][1]
  assert (tmp_path / "layers.svg").read_text().startswith("<svg")
  with pytest.raises(InputError, match="block 5 cannot be read"):
    probe_layers(config, str(tmp_path / "other"), [5])
