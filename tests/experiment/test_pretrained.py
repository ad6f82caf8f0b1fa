"""Pretrained weights: behind frozen encoders, as a start, below adapters."""

import dataclasses
import json
import logging
import re
import shutil

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from ddit_jax.checkpoint.store import CheckpointStore
from ddit_jax.errors import InputError
from ddit_jax.experiment.pretrained import PretrainedParams
from ddit_jax.experiment.trainer import Trainer, train
from ddit_jax.experiment.vocabulary import make_tokenizer
from ddit_jax.lora.lora import LoraNetwork
from ddit_jax.models.module import Network
from ddit_jax.pipelines.load import load
from ddit_jax.sharding.mesh import MeshConfig
from tests import converted_weights, tiny_run

NETWORK = converted_weights.MODULES["network"]
LAST = tiny_run.NUM_STEPS


@pytest.fixture(scope="module")
def converted(cached_files):
  """The weights of `converted_weights`. Not to be changed."""
  return cached_files[1]


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
  with pytest.MonkeyPatch.context() as monkeypatch:
    tiny_run.use_first_device(monkeypatch)
    assert train(settings(converted), str(workdir))
  return workdir


def test_every_array_is_taken_as_it_was_stored(converted):
  weights = PretrainedParams.open(str(converted), "ema", wanted())
  assert weights.newly_initialised == weights.unused == []
  assert "(0 cast)" in weights.report()
  layout = jax.tree.map(
    lambda _: jax.sharding.SingleDeviceSharding(jax.devices()[0]), wanted()
  )
  zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), wanted())
  stored = converted_weights.variables("network")["params"]
  jax.tree.map(
    np.testing.assert_array_equal, weights.load(zeros, layout), stored
  )


def test_t5_is_kept_as_int8_if_the_config_says_so(converted):
  config = settings(converted, model__has_int8_text_encoder="True")
  encoders = config.model.open_encoders()
  mesh = MeshConfig(fsdp=8).make()
  model = config.make_model(encoders.tokenizer, encoders)
  got = config.model.restore_encoders(model, encoders, mesh)["text_encoder"]
  plain = encoders.encoder("text_encoder", config.model.encoder_dtype)
  want = encoders.restore("text_encoder", plain, mesh)
  flat = flatten_dict(got["params"], sep=".")
  num_kernels = 0
  for name, weight in flatten_dict(want["params"], sep=".").items():
    if not name.endswith("kernel"):
      np.testing.assert_array_equal(flat[name], weight)
      continue
    num_kernels += 1
    assert flat[name].dtype == np.int8
    scale = np.float32(flat[name.replace("kernel", "scale")])
    inputs = tuple(range(1, 1 + weight.ndim - scale.ndim))
    scale = np.expand_dims(scale, inputs)
    error = np.abs(np.float32(flat[name]) * scale - np.float32(weight))
    # Measured: at most 0.5001 of a step.
    assert (error <= 0.501 * scale).all()
  assert num_kernels == 5


def test_weights_that_are_not_finite_are_refused_by_name(tmp_path):
  flat = flatten_dict(converted_weights.variables("network")["params"], sep=".")
  name = sorted(flat)[0]
  flat[name] = flat[name] * np.nan
  with CheckpointStore(tmp_path / "checkpoints") as store:
    store.save(
      *(1, {"ema": unflatten_dict(flat, sep=".")}),
      **{"data_position": {}, "config": {"schema_version": 3}, "files": {}},
    )
  path = str(tmp_path / "checkpoints" / "1")
  weights = PretrainedParams.open(path, "ema", wanted())
  layout = jax.tree.map(
    lambda _: jax.sharding.SingleDeviceSharding(jax.devices()[0]), wanted()
  )
  message = f"1/ema holds values that are not finite in {re.escape(name)}: use"
  with pytest.raises(InputError, match=message):
    weights.load(wanted(), layout)


def test_newly_initialised_and_unused_arrays_are_named(converted):
  changes = {"has_qk_norm": True, "num_null_image_tokens": 0}
  other = Network(dataclasses.replace(NETWORK.config, **changes))
  weights = PretrainedParams.open(str(converted), "ema", wanted(other))
  report = weights.report()
  assert weights.unused == ["null_image"]
  assert "unused: null_image (2, 32)" in report
  assert len(weights.newly_initialised) == 4
  assert all("norm" in name for name in weights.newly_initialised)
  assert (
    f"{len(weights.taken)} arrays taken (0 cast), 4 newly initialised, 1 unused"
    in report
  )


def test_other_shapes_are_refused(converted):
  other = Network(dataclasses.replace(NETWORK.config, width=64))
  with pytest.raises(InputError, match=r"another network.* .*32.*64"):
    PretrainedParams.open(str(converted), "ema", wanted(other))


@pytest.mark.parametrize(
  ("path", "message"),
  [("nowhere", "neither a workdir"), ("checkpoints/7", "has no ema")],
)
def test_places_without_weights_are_refused(tmp_path, path, message):
  with pytest.raises(InputError, match=message):
    PretrainedParams.open(str(tmp_path / path), "ema", wanted())


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
@pytest.mark.usefixtures("on_one_device")
def test_a_resumed_run_is_bit_identical(converted, finetuned, tmp_path):
  first = settings(converted, train__num_steps="4")
  assert train(first, str(tmp_path))
  assert train(settings(converted), str(tmp_path))
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
  assert images.images.shape == (2, 16, 16, 3)
  assert len(pipeline.caption(images)) == 2


def test_a_run_starts_from_another_runs_checkpoint(
  trained, tmp_path, caplog, monkeypatch
):
  (tmp_path / "here").mkdir()
  monkeypatch.chdir(tmp_path / "here")
  (tmp_path / "old").symlink_to(trained)
  states = []
  monkeypatch.setattr(
    Trainer, "fit", lambda self, state, *_: not states.append(state)
  )
  run = tiny_run.settings(
    init_from="../old/checkpoints/4", init_weights="params"
  )
  with caplog.at_level(logging.INFO):
    assert train(run, str(tmp_path))
  assert "0 newly initialised, 0 unused" in caplog.text
  theirs = tiny_run.stored_arrays(trained, 4)
  for key, array in jax.tree_util.tree_leaves_with_path(states[0].params):
    stored = theirs[f"params{jax.tree_util.keystr(key)}"]
    np.testing.assert_array_equal(array, stored)


def adapter_settings(trained, step=4, **changes):
  start = trained / "checkpoints" / str(step)
  return tiny_run.adapter_settings(str(start), **changes)


def network(settings):
  tokenizer = make_tokenizer(settings.data)
  return settings.make_model(tokenizer).network


def base_of(settings):
  """(the network below the adapters, its pretrained parameters)."""
  below = network(settings).network
  pretrained = PretrainedParams.open(
    settings.init_from, settings.init_weights, wanted(below), is_complete=True
  )
  return below, pretrained


def test_rank_zero_leaves_the_network_as_it_is(trained):
  plain = network(adapter_settings(trained, lora__rank="0"))
  assert not isinstance(plain, LoraNetwork)


def test_the_base_is_restored_where_it_belongs(trained):
  below, pretrained = base_of(adapter_settings(trained))
  mesh = MeshConfig(fsdp=4, tensor=2).make()
  layout = below.shardings(mesh)["params"]
  params = pretrained.load(wanted(below), layout)
  stored = tiny_run.stored_arrays(trained, 4)
  places = jax.tree.leaves(layout)
  for (path, leaf), where in zip(
    jax.tree_util.tree_leaves_with_path(params), places, strict=True
  ):
    name = f"ema{jax.tree_util.keystr(path)}"
    np.testing.assert_array_equal(leaf, stored[name])
    assert leaf.sharding.is_equivalent_to(where, leaf.ndim)


def test_the_digest_follows_the_parameters_not_the_place(trained, tmp_path):
  here = adapter_settings(trained)
  copy = shutil.copytree(
    trained / "checkpoints" / "4", tmp_path / "checkpoints" / "4"
  )
  there = dataclasses.replace(here, init_from=str(copy))
  _, base = base_of(here)
  _, moved = base_of(there)
  assert moved.digest == base.digest
  moved.check_same_base(base.base_file())
  for other in (
    adapter_settings(trained, step=LAST),
    dataclasses.replace(here, init_weights="params"),
  ):
    _, opened = base_of(other)
    with pytest.raises(InputError, match="holds other parameters than"):
      opened.check_same_base(base.base_file())


def test_a_base_of_another_shape_is_refused(trained):
  asked = adapter_settings(trained, model__size="small")
  with pytest.raises(InputError, match="holds another network's parameters"):
    base_of(asked)


def test_adapters_need_a_complete_network_below_them(converted):
  other = Network(dataclasses.replace(NETWORK.config, has_qk_norm=True))
  with pytest.raises(InputError, match=r"lacks .*norm.* and 3 more: adapters"):
    PretrainedParams.open(
      str(converted), "ema", wanted(other), is_complete=True
    )


def test_a_checkpoint_holds_adapters_and_no_base(adapted):
  stored = tiny_run.stored_arrays(adapted, LAST)
  names = {n for n in stored if n.startswith(("params", "ema"))}
  assert names and all(n.endswith(("['down']", "['up']")) for n in names)
  moments = [n for n in stored if n.startswith("opt_state") and ".mu" in n]
  assert len(moments) in (0, len(names) // 2)
  ups = [n for n in names if n.startswith("params") and n.endswith("['up']")]
  assert all(np.abs(stored[n]).max() > 0 for n in ups)
  plain = adapted / "checkpoints" / str(LAST) / "plain"
  base = (plain / "files" / "lora_base.json").read_text()
  assert json.loads(base).keys() == {"folder", "digest"}
  losses = [value for _, _, value in tiny_run.logged_losses(adapted)]
  assert np.isfinite(losses).all()


def test_a_loaded_run_is_the_base_with_its_adapters_merged(adapted, trained):
  pipeline = load(str(adapted))
  assert not isinstance(pipeline.model.network, LoraNetwork)
  got = pipeline.variables["network"]["params"]
  base = tiny_run.stored_arrays(trained, 4)
  ours = tiny_run.stored_arrays(adapted, LAST)
  for path, leaf in jax.tree_util.tree_leaves_with_path(got):
    name = jax.tree_util.keystr(path)
    want = base[f"ema{name}"].astype(np.float64)
    down = ours.get(f"ema{name.replace('kernel', 'down')}")
    if name.endswith("['kernel']") and down is not None:
      up = ours[f"ema{name.replace('kernel', 'up')}"]
      for layer in range(len(want)):
        change = down[layer].reshape(-1, 2) @ up[layer].reshape(2, -1)
        want[layer] += 2.0 * change.reshape(want[layer].shape)
    # Measured 6e-8.
    np.testing.assert_allclose(leaf, want, atol=1e-6)


@pytest.mark.slow
@pytest.mark.usefixtures("on_one_device")
def test_a_resumed_run_is_bit_identical_on_a_moved_base(
  adapted, trained, tmp_path
):
  first = adapter_settings(trained, train__num_steps="4")
  assert train(first, str(tmp_path / "run"))
  copy = shutil.copytree(
    trained / "checkpoints" / "4", tmp_path / "checkpoints" / "4"
  )
  moved = dataclasses.replace(adapter_settings(trained), init_from=str(copy))
  assert train(moved, str(tmp_path / "run"))
  ours = tiny_run.stored_arrays(tmp_path / "run", LAST)
  theirs = tiny_run.stored_arrays(adapted, LAST)
  assert ours.keys() == theirs.keys()
  different = [n for n, a in theirs.items() if a.tobytes() != ours[n].tobytes()]
  assert different == []


def test_resuming_on_another_base_is_refused(adapted, trained, tmp_path):
  workdir = shutil.copytree(adapted, tmp_path / "run")
  with pytest.raises(InputError, match="from which the run started"):
    train(adapter_settings(trained, step=LAST), str(workdir))
  with pytest.raises(InputError, match=r"other settings \(lora.rank was 2"):
    train(adapter_settings(trained, lora__rank="3"), str(workdir))
