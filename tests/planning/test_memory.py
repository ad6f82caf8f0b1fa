"""Memory of compiled programs against arrays that are really there."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from ddit_jax.planning.hlo import HloText
from ddit_jax.planning.memory import (
  Written,
  bytes_needed,
  largest_written,
  memory_by_kind,
  tree_bytes,
)
from ddit_jax.sharding.mesh import MeshConfig


def test_a_program_needs_what_its_arrays_take():
  """All but temporaries, of buffers that live on one device."""
  mesh = MeshConfig(fsdp=8).make()
  split = NamedSharding(mesh, PartitionSpec("fsdp"))
  weights = jax.device_put(jnp.ones((64, 128)), split)
  batch = jax.device_put(jnp.ones((16, 64), jnp.bfloat16), split)

  def step(weights, batch):
    return weights + 1, (batch @ weights).astype(jnp.float32)

  jitted = jax.jit(step, donate_argnums=0, out_shardings=(split, split))
  compiled = jitted.lower(weights, batch).compile()
  kinds = {"weights": tree_bytes(weights), "batch": tree_bytes(batch)}
  memory = memory_by_kind(compiled, kinds)
  local = weights.addressable_shards[0].data.nbytes
  assert memory["weights"] == local == 64 * 128 * 4 // 8
  assert memory["batch"] == batch.addressable_shards[0].data.nbytes
  assert memory["argument_padding"] == 0
  _, product = compiled(weights, batch)
  # The new weights take the place of the donated ones.
  extra = product.addressable_shards[0].data.nbytes
  assert extra <= memory["outputs"] <= extra + 64


@pytest.mark.parametrize(
  ("message", "size"),
  [
    (
      "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 26.50G "
      "of 15.75G hbm. Exceeded",
      26.5 * 2**30,
    ),
    ("Used 512.0M of 15.75G hbm", 2**29),
  ],
)
def test_a_program_that_does_not_fit_says_what_it_needs(message, size):
  assert bytes_needed(message) == size


def test_other_messages_say_nothing():
  assert bytes_needed("INTERNAL: something") is None


def test_the_largest_arrays_are_those_in_slow_memory():
  text = """\
ENTRY %main (x: f32[64]) -> f32[8] {
  %x = f32[64]{0} parameter(0)
  %a = f32[32]{0:T(128)} negate(%x)
  %b = f32[16]{0:T(128)} negate(%a)
  %c = f32[16]{0:T(128)} negate(%b)
  %d = f32[64]{0:T(128)S(1)} negate(%c)
  ROOT %e = (f32[8]{0}, bf16[2]{0}) fusion(%d)
}
"""
  assert largest_written(HloText.parse(text), limit=3) == [
    Written(type="f32[32]", bytes=128, count=1, source=""),
    Written(type="f32[16]", bytes=64, count=2, source=""),
    Written(type="f32[8]", bytes=32, count=1, source=""),
  ]
