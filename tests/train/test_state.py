"""A fresh state: equal averages, no shared buffers, moments laid out."""

import functools

import jax
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

from ddit_jax.models.config import size
from ddit_jax.models.module import Network
from ddit_jax.sharding.mesh import MeshConfig
from ddit_jax.train.optimizer import OptimizerConfig
from ddit_jax.train.state import (
  TrainState,
  abstract_state,
  init_state,
  state_shardings,
)

NETWORK = Network(
  size("tiny", depth=1, width=16, num_heads=2, vocab_size=8, max_text_length=4)
)
OPTIMIZER = OptimizerConfig().make(10)


@functools.cache
def sharded():
  """(state, its shardings) on a mesh of 4 x 2 devices."""
  mesh = MeshConfig(fsdp=4, tensor=2).make()
  layout = state_shardings(NETWORK, OPTIMIZER, mesh)
  create = functools.partial(init_state, NETWORK, OPTIMIZER)
  state = jax.jit(create, out_shardings=layout)(jax.random.key(0))
  return state, layout


def test_a_fresh_state_has_done_nothing():
  state, _ = sharded()
  assert int(state.step) == 0
  assert state.step.dtype == np.int32
  for moment in ("mu", "nu"):
    leaves = jax.tree.leaves(optax.tree.get(state.opt_state, moment))
    assert len(leaves) == len(jax.tree.leaves(state.params))
    assert not any(np.any(leaf) for leaf in leaves)


def test_the_average_starts_as_a_copy_of_its_own():
  state, _ = sharded()
  for mean, param in zip(
    jax.tree.leaves(state.ema), jax.tree.leaves(state.params), strict=True
  ):
    np.testing.assert_array_equal(mean, param)
    pointers = [
      x.addressable_shards[0].data.unsafe_buffer_pointer()
      for x in (mean, param)
    ]
    assert pointers[0] != pointers[1]


def test_every_array_lies_where_announced():
  state, layout = sharded()
  for leaf, where in zip(
    jax.tree.leaves(state), jax.tree.leaves(layout), strict=True
  ):
    assert leaf.sharding.is_equivalent_to(where, leaf.ndim)


def test_moments_and_average_lie_where_their_parameters_lie():
  _, layout = sharded()
  params = jax.tree.leaves(layout.params)
  for tree in (
    layout.ema,
    optax.tree.get(layout.opt_state, "mu"),
    optax.tree.get(layout.opt_state, "nu"),
  ):
    assert jax.tree.leaves(tree) == params
  kernel = optax.tree.get(layout.opt_state, "mu")["blocks"]["image"]["qkv"]
  assert kernel["kernel"].spec == PartitionSpec(
    None, "fsdp", None, "tensor", None
  )


def test_each_device_holds_its_share_of_the_moments():
  state, _ = sharded()
  moment = optax.tree.get(state.opt_state, "nu")["blocks"]["image"]["mlp"]
  shapes = {x.data.shape for x in moment["in"]["kernel"].addressable_shards}
  # One layer, width 16 over fsdp 4, hidden 64 over tensor 2.
  assert shapes == {(1, 4, 32)}


def test_the_abstract_state_is_the_state_without_arrays():
  state, layout = sharded()
  abstract = abstract_state(NETWORK, OPTIMIZER, layout)
  assert jax.tree.structure(abstract) == jax.tree.structure(state)
  for shape, leaf, where in zip(
    jax.tree.leaves(abstract),
    jax.tree.leaves(state),
    jax.tree.leaves(layout),
    strict=True,
  ):
    assert (shape.shape, shape.dtype) == (leaf.shape, leaf.dtype)
    assert shape.sharding == where
  assert jax.tree.leaves(abstract_state(NETWORK, OPTIMIZER))[0].sharding is None


def test_items_there_and_back_are_the_same_state():
  state, _ = sharded()
  back = TrainState.from_items(state.items())
  assert jax.tree.structure(back) == jax.tree.structure(state)
  for ours, theirs in zip(
    jax.tree.leaves(back), jax.tree.leaves(state), strict=True
  ):
    assert ours is theirs


def test_a_state_cannot_be_changed_in_place():
  state, _ = sharded()
  with pytest.raises(AttributeError):
    state.step = 3
