"""Runs of adapters: what moves, what is saved, and on which base."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from ddit_jax.errors import InputError
from ddit_jax.experiment.data import make_tokenizer
from ddit_jax.experiment.pretrained import BASE_FILE, FrozenBase
from ddit_jax.experiment.trainer import train
from ddit_jax.lora.lora import LoraNetwork
from ddit_jax.pipelines.load import load
from ddit_jax.sharding.mesh import MeshConfig
from tests import tiny_run

LAST = tiny_run.NUM_STEPS


def settings(trained, step=4, **changes):
  return tiny_run.settings(
    init_from=str(trained / "checkpoints" / str(step)),
    **{"lora__rank": "2", "lora__alpha": "4.0"} | changes,
  )


def network(settings):
  tokenizer = make_tokenizer(settings.data)
  return settings.make_model(tokenizer).network


def base_of(settings, network):
  return FrozenBase.open(settings.init_from, settings.init_weights, network)


def test_rank_zero_leaves_the_network_as_it_is(trained):
  plain = network(settings(trained, lora__rank="0"))
  assert not isinstance(plain, LoraNetwork)


def test_the_base_is_restored_where_it_belongs(trained):
  asked = settings(trained)
  base = base_of(asked, network(asked))
  mesh = MeshConfig(fsdp=4, tensor=2).make()
  params = base.restore(mesh)["base"]
  stored = tiny_run.stored_arrays(trained, 4)
  layout = base.network.network.shardings(mesh)["params"]
  places = jax.tree.leaves(layout)
  for (path, leaf), where in zip(
    jax.tree_util.tree_leaves_with_path(params), places, strict=True
  ):
    name = f"ema{jax.tree_util.keystr(path)}"
    np.testing.assert_array_equal(leaf, stored[name])
    assert leaf.sharding.is_equivalent_to(where, leaf.ndim)
  assert f"frozen: {base.network.network.num_parameters():,}" in base.report()


def test_the_digest_follows_the_parameters_not_the_place(trained, tmp_path):
  here = settings(trained)
  copy = shutil.copytree(
    trained / "checkpoints" / "4", tmp_path / "checkpoints" / "4"
  )
  there = dataclasses.replace(here, init_from=str(copy))
  adapted = network(here)
  base = base_of(here, adapted)
  moved = base_of(there, adapted)
  assert moved.digest == base.digest
  moved.check_same(base.files())
  for other in (
    settings(trained, step=LAST),
    dataclasses.replace(here, init_weights="params"),
  ):
    opened = base_of(other, adapted)
    with pytest.raises(InputError, match="holds other parameters than"):
      opened.check_same(base.files())


def test_a_base_of_another_shape_is_refused(trained):
  asked = settings(trained, model__size="small")
  with pytest.raises(InputError, match="holds another network's parameters"):
    base_of(asked, network(asked))


@pytest.fixture(scope="module")
def adapted(trained, tmp_path_factory):
  """The workdir of a run of adapters. Not to be changed."""
  workdir = tmp_path_factory.mktemp("adapted") / "run"
  assert train(settings(trained), str(workdir)) == 0
  return workdir


def test_a_checkpoint_holds_adapters_and_no_base(adapted):
  stored = tiny_run.stored_arrays(adapted, LAST)
  names = {n for n in stored if n.startswith(("params", "ema"))}
  assert names and all(n.endswith(("['down']", "['up']")) for n in names)
  moments = [n for n in stored if n.startswith("opt_state") and ".mu" in n]
  assert len(moments) in (0, len(names) // 2)
  ups = [n for n in names if n.startswith("params") and n.endswith("['up']")]
  assert all(np.abs(stored[n]).max() > 0 for n in ups)
  plain = adapted / "checkpoints" / str(LAST) / "plain" / "files" / BASE_FILE
  assert json.loads(plain.read_text()).keys() == {"folder", "digest"}
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
def test_a_resumed_run_is_bit_identical_on_a_moved_base(
  adapted, trained, tmp_path
):
  first = settings(trained, train__num_steps="4")
  assert train(first, str(tmp_path / "run")) == 0
  copy = shutil.copytree(
    trained / "checkpoints" / "4", tmp_path / "checkpoints" / "4"
  )
  moved = dataclasses.replace(settings(trained), init_from=str(copy))
  assert train(moved, str(tmp_path / "run")) == 0
  ours = tiny_run.stored_arrays(tmp_path / "run", LAST)
  theirs = tiny_run.stored_arrays(adapted, LAST)
  assert ours.keys() == theirs.keys()
  different = [n for n, a in theirs.items() if a.tobytes() != ours[n].tobytes()]
  assert different == []


def test_resuming_on_another_base_is_refused(adapted, trained, tmp_path):
  workdir = shutil.copytree(adapted, tmp_path / "run")
  with pytest.raises(InputError, match="on which the adapters were trained"):
    train(settings(trained, step=LAST), str(workdir))
  with pytest.raises(InputError, match=r"other settings \(lora.rank was 2"):
    train(settings(trained, lora__rank="3"), str(workdir))
