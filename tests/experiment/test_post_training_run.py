"""Post-training through `train`: its log, and resuming inside a rollout."""

import json
import pathlib

import numpy as np
import pytest

from ddit_jax.config.load import load_config
from ddit_jax.errors import InputError
from ddit_jax.experiment.config import Config
from ddit_jax.experiment.trainer import train
from ddit_jax.post_training import rewards
from tests import tiny_run
from tests.experiment import words

CONFIG = str(tiny_run.ROOT / "configs" / "post_training.py")
LAST = 4
# Two programs predict with the same weights: squares of float32's rounding.
SAME = 1e-11
IMAGE = "post_training.text_to_image"
OVERRIDES = {
  "model.execution.scan_unroll": "1",
  "data.pool_size": "16",
  "data.validation_size": "8",
  "optimizer.warmup_steps": "0",
  "train.log_every": "1",
  "train.validate_every": "4",
  "train.sample_grid_size": "0",
}
OF_IMAGES = {
  "data.text_to_image.batch_size": "2",
  "train.num_steps": str(LAST),
  "train.checkpoint_every": "2",
  f"{IMAGE}.group_size": "2",
  f"{IMAGE}.sampling.num_inference_steps": "2",
  # Blank images are all alike to the checker.
  f"{IMAGE}.rewards": "('image_kilobytes',)",
  f"{IMAGE}.measured": "('digits',)",
}
TEXT = "post_training.image_to_text"
OF_TEXTS = {
  "data.image_to_text.batch_size": "4",
  "train.checkpoint_every": "1",
  "train.num_steps": "2",
  f"{TEXT}.group_size": "4",
  f"{TEXT}.sampling.num_steps": "2",
  f"{TEXT}.num_passes": "2",
  # The untrained network says anything.
  f"{TEXT}.rewards": "('soft_match', 'tests.experiment.words:length')",
}


class Crash(BaseException):
  """Ends a run as nothing in the package expects it."""


def settings(start, variant="nft", **overrides) -> Config:
  own = OVERRIDES | (OF_IMAGES if variant == "nft" else OF_TEXTS)
  return load_config(
    Config, f"{CONFIG}:{variant}", own | {"init_from": str(start)} | overrides
  )


@pytest.fixture(scope="module")
def rewarded(trained, tmp_path_factory) -> pathlib.Path:
  """An undisturbed run of NFT from the run `trained`. Not to be changed."""
  workdir = tmp_path_factory.mktemp("rewarded") / "run"
  with pytest.MonkeyPatch.context() as monkeypatch:
    tiny_run.use_first_device(monkeypatch)
    assert train(settings(trained), str(workdir))
  return workdir


def log_of(workdir):
  return [
    json.loads(line)
    for line in (workdir / "scalars.jsonl").read_text().splitlines()
  ]


def test_rewards_their_cost_and_the_distance_to_the_start_are_logged(rewarded):
  lines = log_of(rewarded)
  steps = [line for line in lines if "loss/image" in line]
  assert [line["step"] for line in steps] == [1, 2, 3, 4]
  for line in steps:
    name = "reward/text_to_image/image_kilobytes"
    assert line[f"{name}/low"] <= line[name] <= line[f"{name}/high"]
    assert line["reward_seconds/text_to_image/digits"] > 0
  # The first step starts at the reference, and the others do not.
  distances = [line["loss/image_kl"] for line in steps]
  assert distances[0] < SAME and all(x > SAME for x in distances[1:])
  [held_out] = [
    line for line in lines if "held_out/text_to_image/digits" in line
  ]
  assert held_out["step"] == LAST


@pytest.mark.slow
@pytest.mark.usefixtures("on_one_device")
def test_a_run_killed_inside_of_a_rollout_ends_bit_identical(
  rewarded, trained, tmp_path, monkeypatch
):
  config, real, calls = settings(trained), rewards.IMAGE_REWARDS["digits"], []

  def crashing(outputs):
    calls.append(outputs)
    # The third step's draws are made and half scored.
    if len(calls) == 3:
      raise Crash
    return real(outputs)

  monkeypatch.setitem(rewards.IMAGE_REWARDS, "digits", crashing)
  with pytest.raises(Crash):
    train(config, str(tmp_path))
  assert train(config, str(tmp_path))
  np.testing.assert_array_equal(calls[2].images, calls[3].images)
  tiny_run.assert_bit_identical(tmp_path, rewarded, LAST)


@pytest.mark.usefixtures("on_one_device")
def test_another_reference_is_refused_when_a_run_resumes(rewarded, trained):
  other = trained / "checkpoints" / "2"
  config = settings(other, resume_changes="init_from")
  with pytest.raises(InputError, match="from which the run started"):
    train(config, str(rewarded))


@pytest.mark.slow
@pytest.mark.usefixtures("on_one_device")
def test_adapters_are_their_own_reference(trained, tmp_path):
  config = settings(trained, **{"lora.rank": "2", "train.num_steps": "2"})
  assert train(config, str(tmp_path))
  first, second = [x for x in log_of(tmp_path) if "loss/image_kl" in x]
  assert first["loss/image_kl"] < SAME < second["loss/image_kl"]


def test_prompts_are_needed(trained):
  with pytest.raises(InputError, match="no prompts for it"):
    settings(
      trained,
      **{
        "data.text_to_image.batch_size": "0",
        "data.image_to_text.batch_size": "2",
      },
    )
  with pytest.raises(InputError, match="is_merged=False"):
    settings(trained, **{"loss.is_merged": "True"})
  with pytest.raises(InputError, match="text_chunk is 4"):
    settings(trained, "vrpo", **{"loss.text_chunk": "4"})


@pytest.mark.slow
@pytest.mark.usefixtures("on_one_device")
@pytest.mark.parametrize("method", ["vrpo", "espo"])
def test_texts_are_trained_on_rewards_and_resume_inside_of_a_rollout(
  method, trained, tmp_path, monkeypatch
):
  config = settings(trained, method)
  whole, killed = tmp_path / "whole", tmp_path / "killed"
  assert train(config, str(whole))
  first, second = [x for x in log_of(whole) if "loss/text" in x]
  name = "reward/image_to_text/tests.experiment.words.length"
  assert first[name] > 0
  assert first["loss/text_kl"] < SAME < second["loss/text_kl"]

  with monkeypatch.context() as patch:
    real, calls = words.length, []

    def crashing(outputs):
      calls.append(outputs)
      if len(calls) == 2:
        raise Crash
      return real(outputs)

    patch.setattr(words, "length", crashing)
    with pytest.raises(Crash):
      train(config, str(killed))
  assert train(config, str(killed))
  tiny_run.assert_bit_identical(killed, whole, 2)


@pytest.mark.slow
# On all devices.
@pytest.mark.parametrize("variant", ["image_pairs", "text_pairs"])
def test_preference_pairs_of_the_data_are_trained_on(variant, tmp_path):
  config = load_config(
    Config,
    f"{CONFIG}:{variant}_dry",
    {"train.num_steps": "2", "optimizer.warmup_steps": "0"},
  )
  assert train(config, str(tmp_path))
  name = variant.removesuffix("_pairs")
  first, second = [x for x in log_of(tmp_path) if f"loss/{name}" in x]
  assert first[f"loss/{name}_kl"] < SAME < second[f"loss/{name}_kl"]
  np.testing.assert_allclose(first[f"loss/{name}"], np.log(2), rtol=1e-3)


@pytest.mark.slow
@pytest.mark.usefixtures("on_one_device")
def test_pairs_are_needed(tmp_path):
  overrides = {"data.sources.pairs.texts": "questions"}
  config = load_config(Config, f"{CONFIG}:text_pairs_dry", overrides)
  with pytest.raises(InputError, match="name sources of the kind pairs"):
    train(config, str(tmp_path))
