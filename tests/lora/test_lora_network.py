"""A network under adapters: equal at the start, exact when merged."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

from ddit_jax.lora.lora import LoraConfig, LoraNetwork
from ddit_jax.models.config import size
from ddit_jax.models.module import Network
from ddit_jax.sharding.mesh import MeshConfig
from ddit_jax.train.optimizer import OptimizerConfig
from ddit_jax.train.state import init_state, state_shardings
from tests.lora import tiny_lora
from tests.lora.tiny_lora import ADAPTED, NETWORK

PLAIN = jax.jit(NETWORK.apply)
UNDER = jax.jit(ADAPTED.apply)


def test_fresh_adapters_change_no_bit():
  variables = tiny_lora.variables(is_trained=False)
  plain = {"params": variables["base"], "constants": variables["constants"]}
  want = PLAIN(plain, *tiny_lora.inputs())
  got = UNDER(variables, *tiny_lora.inputs())
  jax.tree.map(np.testing.assert_array_equal, got, want)


def test_trained_adapters_equal_the_merged_network_and_not_the_base():
  variables = tiny_lora.variables(is_trained=True)
  got = UNDER(variables, *tiny_lora.inputs())
  merged = jax.jit(ADAPTED.merged)(variables)
  # Measured 0: the same kernels, rounded in the same places.
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, atol=1e-6),
    PLAIN(merged, *tiny_lora.inputs()),
    got,
  )
  merged["params"] = variables["base"]
  base = PLAIN(merged, *tiny_lora.inputs())
  assert np.abs(base.velocity - got.velocity).max() > 0.05
  assert np.abs(base.logits - got.logits).max() > 0.05


def test_the_text_head_alone_gives_the_same_logits():
  variables = tiny_lora.variables(is_trained=True)
  got = UNDER(variables, *tiny_lora.inputs())
  logits = ADAPTED.text_logits(variables, got.text_hidden)
  # Measured 5e-7.
  np.testing.assert_allclose(logits, got.logits, atol=1e-5)


def test_gradients_reach_every_adapter_and_nothing_else():
  variables = tiny_lora.variables(is_trained=True)

  def loss(params, frozen):
    out = ADAPTED.apply({**frozen, "params": params}, *tiny_lora.inputs())
    return (out.velocity**2).mean() + (out.logits**2).mean()

  params = variables.pop("params")
  grads = jax.jit(jax.grad(loss))(params, variables)
  assert jax.tree.structure(grads) == jax.tree.structure(params)
  assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(grads))
  # The product rule by hand: of the kernel's gradient G, d down = s G up^T.
  merged = jax.jit(ADAPTED.merged)({**variables, "params": params})

  def plain_loss(params):
    out = NETWORK.apply({**merged, "params": params}, *tiny_lora.inputs())
    return (out.velocity**2).mean() + (out.logits**2).mean()

  whole = jax.jit(jax.grad(plain_loss))(merged["params"])
  kernel = np.asarray(whole["blocks"]["text"]["out"]["kernel"])
  up = np.asarray(params["blocks"]["text"]["out"]["up"])
  want = 2.0 * np.einsum("lhdo,lro->lhdr", kernel, up)
  # Measured 2e-8 at 4e-2.
  np.testing.assert_allclose(
    grads["blocks"]["text"]["out"]["down"], want, atol=1e-6
  )


def test_only_adapters_are_counted_created_and_laid_out():
  want = sum(x.size for x in jax.tree.leaves(adapters()))
  assert ADAPTED.num_parameters() == want < NETWORK.num_parameters()
  created = jax.eval_shape(ADAPTED.init, jax.random.key(0))
  assert set(created) == {"params", "constants"}
  assert ADAPTED.config == NETWORK.config
  assert ADAPTED.execution == NETWORK.execution


def test_sd3_mediums_adapters_have_the_documented_size():
  medium = Network(size("sd3_medium", vocab_size=8))
  lora = LoraNetwork(medium, LoraConfig(rank=16, alpha=16.0))
  # A stream of a block: q, k, v share 1536 x 16; then 16 x 4608; then the
  # output's 1536 x 16 x 2.
  a_stream = 16 * (1536 + 3 * 1536 + 2 * 1536)
  assert lora.num_parameters() == 24 * 2 * a_stream == 7_077_888


def adapters():
  return tiny_lora.variables(is_trained=False)["params"]


def test_adapters_and_moments_are_split_where_their_kernels_are():
  mesh = MeshConfig(fsdp=4, tensor=2).make()
  optimizer = OptimizerConfig().make(10)
  layout = state_shardings(ADAPTED, optimizer, mesh)
  for tree in (layout.params, optax.tree.get(layout.opt_state, "nu")):
    qkv = tree["blocks"]["text"]["qkv"]
    assert qkv["down"].spec == PartitionSpec(None, "fsdp", None)
    assert qkv["up"].spec == PartitionSpec(None, None, None, "tensor", None)
  create = functools.partial(init_state, ADAPTED, optimizer)
  state = jax.jit(create, out_shardings=layout)(jax.random.key(0))
  out = state.params["blocks"]["image"]["out"]
  # Two heads over tensor 2; width 16 over fsdp 4.
  assert out["down"].addressable_shards[0].data.shape == (2, 1, 8, 3)
  assert out["up"].addressable_shards[0].data.shape == (2, 3, 4)


def test_eight_devices_compute_what_one_does():
  variables = tiny_lora.variables(is_trained=True)
  want = UNDER(variables, *tiny_lora.inputs(8))
  mesh = MeshConfig(fsdp=4, tensor=2).make()
  layout = ADAPTED.shardings(mesh) | {"base": NETWORK.shardings(mesh)["params"]}
  with jax.set_mesh(mesh):
    got = UNDER(jax.device_put(variables, layout), *tiny_lora.inputs(8))
  # Measured 5e-7.
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, atol=1e-5), got, want
  )


def test_a_frozen_mask_row_is_the_bases():
  config = {"context_dim": 5, "vocab_size": 8}
  plain = Network(
    type(NETWORK.config)(depth=1, width=16, num_heads=2, **config),
    has_mask_embedding=True,
  )
  adapted = LoraNetwork(plain, LoraConfig(rank=1, alpha=1.0))
  assert "mask_embedding" not in adapted.abstract_variables()["params"]
  base = {"mask_embedding": jnp.arange(5.0)}
  row = adapted.mask_embedding({"params": {}, "base": base})
  np.testing.assert_array_equal(row, np.arange(5.0))


@pytest.mark.parametrize(
  "other", [LoraConfig(rank=3, alpha=7.0, targets="attention,mlp"), None]
)
def test_other_settings_are_another_network_to_jit(other):
  assert ADAPTED == LoraNetwork(NETWORK, tiny_lora.LORA)
  assert hash(ADAPTED) == hash(LoraNetwork(NETWORK, tiny_lora.LORA))
  assert ADAPTED != (NETWORK if other is None else LoraNetwork(NETWORK, other))
