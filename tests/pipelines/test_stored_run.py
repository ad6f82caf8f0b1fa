"""A checkpoint of a run, read without its arrays, and with them."""

import contextlib

import jax
import numpy as np
import pytest

from ddit_jax.checkpoint.store import CheckpointStore
from ddit_jax.errors import InputError
from ddit_jax.pipelines.load import StoredRun
from ddit_jax.sharding.mesh import MeshConfig
from tests import tiny_run


@contextlib.contextmanager
def stored(trained, step=None):
  with CheckpointStore(trained / "checkpoints", read_only=True) as store:
    yield StoredRun.open(store, step)


@pytest.mark.parametrize(("step", "want"), [(None, 6), (4, 4)])
def test_a_step_knows_its_settings_and_parts(trained, step, want):
  with stored(trained, step) as run:
    assert run.step == want
    assert run.config.data.pool_size == 64
    assert run.encoders is None
    vocab_size = run.model.network.config.vocab_size
    assert vocab_size == run.tokenizer.vocab_size


@pytest.mark.parametrize("weights", ["ema", "params"])
def test_without_adapters_merged_is_what_was_trained(trained, weights):
  mesh = MeshConfig(fsdp=4, tensor=2).make()
  with stored(trained, 4) as run:
    model, got = run.merged(weights, mesh)
    assert model is run.model
  want = tiny_run.stored_arrays(trained, 4)
  for path, leaf in jax.tree_util.tree_leaves_with_path(got["params"]):
    name = f"{weights}{jax.tree_util.keystr(path)}"
    np.testing.assert_array_equal(leaf, want[name])


def test_steps_that_are_not_there_are_refused(trained, tmp_path):
  with pytest.raises(InputError, match="no checkpoint of step 5; there are"):
    with stored(trained, 5):
      pass
  (tmp_path / "checkpoints").mkdir()
  with pytest.raises(InputError, match="no finished checkpoint: train first"):
    with stored(tmp_path):
      pass
