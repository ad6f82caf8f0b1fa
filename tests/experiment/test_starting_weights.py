"""Runs that start from other weights, behind frozen encoders."""

import dataclasses
import logging

import jax
import numpy as np
import pytest

from ddit_jax.errors import InputError
from ddit_jax.experiment.pretrained import StartingWeights
from ddit_jax.experiment.trainer import train
from ddit_jax.models.module import Network
from ddit_jax.pipelines.load import load
from tests import converted_weights, tiny_run

NETWORK = converted_weights.MODULES["network"]
LAST = tiny_run.NUM_STEPS


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
  return converted_weights.write(tmp_path_factory.mktemp("weights") / "ddit")


def settings(converted, **changes):
  return tiny_run.settings(
    model__size="of_encoders",
    model__encoders_from=str(converted),
    init_from=str(converted),
    loss__is_merged="False",
    **changes,
  )


def wanted(network=NETWORK):
  return network.abstract_variables()["params"]


@pytest.fixture(scope="module")
def finetuned(converted, tmp_path_factory):
  workdir = tmp_path_factory.mktemp("finetuned") / "run"
  assert train(settings(converted), str(workdir)) == 0
  return workdir


def test_every_array_is_taken_as_it_was_stored(converted):
  weights = StartingWeights.open(str(converted), "ema", wanted())
  assert (weights.fresh, weights.left_over, weights.num_cast) == ([], [], 0)
  layout = jax.tree.map(
    lambda _: jax.sharding.SingleDeviceSharding(jax.devices()[0]), wanted()
  )
  zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), wanted())
  stored = converted_weights.variables("network")["params"]
  jax.tree.map(
    np.testing.assert_array_equal, weights.load(zeros, layout), stored
  )


def test_what_is_fresh_and_what_is_left_over_is_said_by_name(converted):
  changes = {"has_qk_norm": True, "num_null_image_tokens": 0}
  other = Network(dataclasses.replace(NETWORK.config, **changes))
  weights = StartingWeights.open(str(converted), "ema", wanted(other))
  report = weights.report()
  assert weights.left_over == ["null_image"]
  assert "left over: null_image (2, 32)" in report
  assert len(weights.fresh) == 4
  assert all("norm" in name for name in weights.fresh)
  assert (
    f"{len(weights.taken)} arrays taken (0 cast), 4 fresh, 1 left" in report
  )


def test_other_shapes_are_refused(converted):
  other = Network(dataclasses.replace(NETWORK.config, width=64))
  with pytest.raises(InputError, match=r"another network.* .*32.*64"):
    StartingWeights.open(str(converted), "ema", wanted(other))


@pytest.mark.parametrize(
  ("path", "message"),
  [("nowhere", "neither a workdir"), ("checkpoints/7", "has no ema")],
)
def test_places_without_weights_are_refused(tmp_path, path, message):
  with pytest.raises(InputError, match=message):
    StartingWeights.open(str(tmp_path / path), "ema", wanted())


def test_training_moves_the_network_and_leaves_the_encoders(
  converted, finetuned
):
  stored = tiny_run.stored_arrays(finetuned, LAST)
  assert not [name for name in stored if "vae" in name or "encoder" in name]
  start = converted_weights.variables("network")["params"]
  for key, leaf in jax.tree_util.tree_leaves_with_path(start):
    now = stored[f"params{jax.tree_util.keystr(key)}"]
    # Rates up to 2e-3 for 6 steps; AdamW moves at most a rate a step.
    assert np.abs(now - leaf).max() < 0.02
  losses = [value for _, name, value in tiny_run.logged_losses(finetuned)]
  assert np.isfinite(losses).all()


@pytest.mark.slow
def test_a_resumed_run_is_bit_identical(converted, finetuned, tmp_path):
  first = settings(converted, train__num_steps="4")
  assert train(first, str(tmp_path)) == 0
  assert train(settings(converted), str(tmp_path)) == 0
  ours = tiny_run.stored_arrays(tmp_path, LAST)
  theirs = tiny_run.stored_arrays(finetuned, LAST)
  assert ours.keys() == theirs.keys()
  # Only the schedule's end differs between the two, and it is constant here.
  different = [n for n, a in theirs.items() if a.tobytes() != ours[n].tobytes()]
  assert different == []


@pytest.mark.slow
def test_its_checkpoint_samples_all_tasks(finetuned):
  pipeline = load(str(finetuned))
  images = pipeline.text_to_image(["a red seven"] * 2)
  assert images.shape == (2, 16, 16, 3)
  assert len(pipeline.caption(images)) == 2


def test_a_run_starts_from_another_runs_checkpoint(trained, tmp_path, caplog):
  start = tiny_run.settings(
    init_from=str(trained / "checkpoints" / "4"), init_weights="params"
  )
  # A rate of zero leaves the weights where they start.
  still = dataclasses.replace(
    start,
    optimizer=dataclasses.replace(
      start.optimizer, learning_rate=1e-30, weight_decay=0.0
    ),
  )
  with caplog.at_level(logging.INFO):
    assert train(still, str(tmp_path)) == 0
  assert "0 fresh, 0 left over" in caplog.text
  ours = tiny_run.stored_arrays(tmp_path, LAST)
  theirs = tiny_run.stored_arrays(trained, 4)
  for name, array in theirs.items():
    if name.startswith("params"):
      np.testing.assert_array_equal(ours[name], array)
