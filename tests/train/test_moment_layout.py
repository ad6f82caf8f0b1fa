"""Moments of every optimizer lie beside their parameters on eight devices."""

import functools

import jax
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from ddit_jax.checkpoint.store import CheckpointStore
from ddit_jax.models.config import size
from ddit_jax.models.module import Network
from ddit_jax.sharding.mesh import MeshConfig
from ddit_jax.train.optimizer import OptimizerConfig
from ddit_jax.train.state import (
  TrainState,
  abstract_state,
  init_state,
  moment_shardings,
  state_shardings,
)

NETWORK = Network(
  size("tiny", depth=1, width=128, num_heads=2, vocab_size=8, max_text_length=4)
)


@functools.cache
def tokenized(kind: str):
  """(optimizer, state on a mesh of 4 x 2 devices, its layout)."""
  mesh = MeshConfig(fsdp=4, tensor=2).make()
  optimizer = OptimizerConfig(kind=kind, warmup_steps=0).make(10)
  layout = state_shardings(NETWORK, optimizer, mesh)
  create = functools.partial(init_state, NETWORK, optimizer)
  state = jax.jit(create, out_shardings=layout)(jax.random.key(0))
  return optimizer, state, layout


def specs(tree, *path):
  for key in path:
    tree = tree[key]
  return tree.spec


def test_factored_moments_lie_where_what_is_left_of_the_kernel_lies():
  _, state, layout = tokenized("adafactor")
  rows = optax.tree.get(layout.opt_state, "v_row")["blocks"]["image"]
  columns = optax.tree.get(layout.opt_state, "v_col")["blocks"]["image"]
  # [layers, embed, hidden] without its largest, then its second dimension.
  assert specs(rows, "mlp", "in", "kernel") == PartitionSpec(None, "fsdp")
  assert specs(columns, "mlp", "in", "kernel") == PartitionSpec(None, "tensor")
  # [layers, embed, rows, heads, head_dim] likewise.
  want = PartitionSpec(None, None, "tensor", None)
  assert specs(rows, "qkv", "kernel") == want
  want = PartitionSpec(None, "fsdp", None, "tensor")
  assert specs(columns, "qkv", "kernel") == want
  second = optax.tree.get(state.opt_state, "v_col")["blocks"]["image"]
  shards = second["qkv"]["kernel"].addressable_shards
  assert {shard.data.shape for shard in shards} == {(1, 32, 3, 1)}
  # What takes the place of the moment that is not factored.
  assert optax.tree.get(state.opt_state, "v")["blocks"]["image"]["qkv"][
    "kernel"
  ].shape == (1,)


def test_muons_momentum_lies_where_its_kernel_lies():
  _, _, layout = tokenized("muon")
  momentum = layout.opt_state[1].inner_states["muon"].inner_state[0].mu
  adam = layout.opt_state[1].inner_states["adam"].inner_state[0].nu
  for path, where in jax.tree_util.tree_leaves_with_path(layout.params):
    taken = [
      [
        leaf
        for found, leaf in jax.tree_util.tree_leaves_with_path(t)
        if found == path
      ]
      for t in (momentum, adam)
    ]
    # One of the two has it, and lays it out the same way.
    assert sorted(taken, key=len) == [[], [where]]


@pytest.mark.parametrize("kind", ["adamw", "adafactor", "muon"])
def test_every_array_of_a_state_is_made_where_it_was_announced(kind):
  _, state, layout = tokenized(kind)
  for leaf, where in zip(
    jax.tree.leaves(state), jax.tree.leaves(layout), strict=True
  ):
    assert leaf.sharding.is_equivalent_to(where, leaf.ndim)


@pytest.mark.parametrize("kind", ["adafactor", "muon"])
def test_an_update_on_eight_devices_equals_one_on_one(kind):
  optimizer, _, layout = tokenized(kind)
  stream = layout.params["blocks"]["image"]
  places = {"blocks": {"image": {k: stream[k] for k in ("qkv", "out")}}}
  shapes = NETWORK.abstract_variables()["params"]["blocks"]["image"]
  draw = np.random.default_rng(0)
  params, grads = (
    jax.tree.map(
      lambda _, leaf: draw.normal(size=leaf.shape).astype("f4"),
      places,
      {"blocks": {"image": {k: shapes[k] for k in ("qkv", "out")}}},
    )
    for _ in range(2)
  )
  state = optimizer.init(params)
  want, _ = jax.jit(optimizer.update)(grads, state, params)
  moments = moment_shardings(optimizer, state, params, places)
  update = jax.jit(optimizer.update, out_shardings=(places, moments))
  got, kept = update(
    jax.device_put(grads, places),
    jax.device_put(state, moments),
    jax.device_put(params, places),
  )
  for ours, theirs in zip(
    jax.tree.leaves(got), jax.tree.leaves(want), strict=True
  ):
    # Measured 2e-10 of steps of 5e-5.
    np.testing.assert_allclose(ours, theirs, atol=5e-8)
  assert any(np.abs(leaf).max() > 1e-6 for leaf in jax.tree.leaves(want))
  assert len(jax.tree.leaves(kept)) > 4


@pytest.mark.parametrize("kind", ["adafactor", "muon"])
def test_a_checkpoint_gives_every_moment_back(kind, tmp_path):
  optimizer, state, layout = tokenized(kind)
  draw = np.random.default_rng(0)
  state = jax.tree.map(
    lambda leaf, where: jax.device_put(
      draw.integers(1, 9, leaf.shape).astype(leaf.dtype), where
    ),
    state,
    layout,
  )
  with CheckpointStore(tmp_path) as store:
    plain = {"data_position": {}, "config": {"schema_version": 1}, "files": {}}
    store.save(1, state.items(), **plain)
    store.wait()
    wanted = abstract_state(NETWORK, optimizer, layout).items()
    back = TrainState.from_items(store.restore(1, wanted))
  assert jax.tree.structure(back) == jax.tree.structure(state)
  jax.tree.map(np.testing.assert_array_equal, back, state)


def test_moments_of_unknown_shapes_are_refused():
  mesh = MeshConfig(fsdp=8).make()
  params = {"kernel": jax.ShapeDtypeStruct((8, 6), "float32")}
  layout = {"kernel": NamedSharding(mesh, PartitionSpec("fsdp"))}
  odd = optax.GradientTransformation(
    lambda p: jax.tree.map(lambda x: jax.numpy.zeros((3, x.shape[1])), p),
    lambda updates, state, params=None: (updates, state),
  )
  state = jax.eval_shape(odd.init, params)
  with pytest.raises(ValueError, match=r"\(3, 6\) of a parameter .*\(8, 6\)"):
    moment_shardings(odd, state, params, layout)


def test_a_mean_over_one_of_two_equal_dimensions_stays_split():
  mesh = MeshConfig(fsdp=8).make()
  params = {"kernel": jax.ShapeDtypeStruct((8, 8), "float32")}
  layout = {"kernel": NamedSharding(mesh, PartitionSpec("fsdp"))}
  means = optax.GradientTransformation(
    lambda p: jax.tree.map(lambda x: x.sum(0), p),
    lambda updates, state, params=None: (updates, state),
  )
  state = jax.eval_shape(means.init, params)
  got = moment_shardings(means, state, params, layout)
  assert got["kernel"].spec == PartitionSpec("fsdp")
