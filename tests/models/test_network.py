"""Initialisation and layout of the network's plain trees."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from ddit_jax.models.config import size
from ddit_jax.models.module import Network
from ddit_jax.sharding.mesh import MeshConfig
from tests.models import oracles

NETWORK = Network(size("tiny", depth=2, width=32, num_heads=4, vocab_size=8))
INIT = jax.jit(NETWORK.init)


def test_fresh_variables_are_float32_and_as_announced():
  variables = INIT(jax.random.key(0))
  abstract = NETWORK.abstract_variables()
  assert sorted(variables) == ["constants", "params"]
  assert jax.tree.structure(variables) == jax.tree.structure(abstract)
  for leaf, shape in zip(
    jax.tree.leaves(variables), jax.tree.leaves(abstract), strict=True
  ):
    assert leaf.shape == shape.shape
    assert leaf.dtype == shape.dtype == jnp.float32


def test_equal_networks_are_traced_once(monkeypatch):
  traced, init = [], Network._boxed_init

  def counted(self, key):
    traced.append(self)
    return init(self, key)

  monkeypatch.setattr(Network, "_boxed_init", counted)
  config = size("tiny", depth=1, width=16, num_heads=2, vocab_size=3)
  one, other = Network(config), Network(config)
  assert one.abstract_variables() == other.abstract_variables()
  one.shardings(MeshConfig().make())
  assert len(traced) == 1
  Network(config, parameter_dtype="bfloat16").abstract_variables()
  assert len(traced) == 2


def test_a_fresh_networks_table_is_the_sine_cosine_one():
  table = INIT(jax.random.key(0))["constants"]
  # Measured 3e-8.
  np.testing.assert_allclose(
    table["position_table"], oracles.position_table(4, 32, 4), atol=2e-7
  )


def test_blocks_start_different_and_keys_matter():
  first, other = (INIT(jax.random.key(i))["params"] for i in (0, 1))
  kernel = first["blocks"]["image"]["qkv"]["kernel"]
  assert kernel.shape == (2, 32, 3, 4, 8)
  assert jnp.abs(kernel[0] - kernel[1]).max() > 0.1
  assert jnp.abs(kernel - other["blocks"]["image"]["qkv"]["kernel"]).max() > 0.1
  # Each kernel's variance is 1 / inputs; 6,144 draws, standard error 2 %.
  assert float(kernel.var()) == pytest.approx(1 / 32, rel=0.08)


def test_a_fresh_network_predicts_nothing():
  variables = INIT(jax.random.key(0))
  prediction = jax.jit(NETWORK.apply)(
    variables,
    jnp.ones((2, 16, 16, 3)),
    jnp.ones((2, 5), jnp.int32),
    jnp.array([0.0, 0.5]),
  )
  assert prediction.velocity.shape == (2, 16, 16, 3)
  assert prediction.logits.shape == (2, 5, 8)
  assert not prediction.velocity.any()
  assert not prediction.logits.any()


def test_created_on_a_mesh_the_numbers_are_the_same():
  mesh = MeshConfig(fsdp=4, tensor=2).make()
  key = jax.random.key(3)
  plain = INIT(key)
  spread = NETWORK.init_sharded(key, mesh)
  layout = NETWORK.shardings(mesh)
  for ours, theirs, where in zip(
    jax.tree.leaves(spread),
    jax.tree.leaves(plain),
    jax.tree.leaves(layout),
    strict=True,
  ):
    assert ours.sharding.is_equivalent_to(where, ours.ndim)
    # Measured 0: the draws do not depend on the mesh.
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_weights_lie_where_the_table_says():
  layout = NETWORK.shardings(MeshConfig(fsdp=4, tensor=2).make())["params"]
  image = layout["blocks"]["image"]
  spec = PartitionSpec
  # Layers, width in, (q, k, v), heads, head_dim.
  assert image["qkv"]["kernel"].spec == spec(
    None, ("fsdp",), None, ("tensor",), None
  )
  assert image["mlp"]["out"]["kernel"].spec == spec(
    None, ("tensor",), ("fsdp",)
  )
  assert layout["text_head"]["project"]["kernel"].spec == spec(
    ("fsdp",), ("tensor",)
  )


def test_placements_add_up_to_the_network():
  mesh = MeshConfig(fsdp=8).make()
  rows = NETWORK.placements(mesh)
  total = sum(math.prod(row.shape) for row in rows)
  table = 4 * 4 * 32
  assert total == NETWORK.num_parameters() + table
  assert len({row.path for row in rows}) == len(rows)
