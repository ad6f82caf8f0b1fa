"""Layouts and bytes of whole trees, the 2 B network among them."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from ddit_jax.models.config import size
from ddit_jax.models.module import Network
from ddit_jax.sharding.mesh import MeshConfig
from ddit_jax.sharding.placement import (
  Placement,
  placement_summary,
  placements,
  shardings,
)
from tests.sharding import full_size


def boxed(shape, names):
  array = jax.ShapeDtypeStruct(shape, jnp.float32)
  return nn.LogicallyPartitioned(array, names)


TREE = {
  "kernel": boxed((8, 6), ("embed", "mlp")),
  "odd": boxed((6, 9), ("embed", "mlp")),
  "table": jax.ShapeDtypeStruct((5, 4), jnp.float32),
}


def test_each_array_is_split_as_far_as_it_divides():
  layout = shardings(TREE, MeshConfig(fsdp=4, tensor=2).make())
  specs = {name: where.spec for name, where in layout.items()}
  assert specs == {
    "kernel": PartitionSpec(("fsdp",), ("tensor",)),
    "odd": PartitionSpec(None, None),
    "table": PartitionSpec(None, None),
  }


def test_what_could_not_be_split_is_reported():
  rows = placements(TREE, MeshConfig(fsdp=4, tensor=2).make())
  by_path = {row.path: row for row in rows}
  assert by_path["kernel"].reason == ""
  assert by_path["odd"].is_refused
  assert placement_summary(rows).splitlines() == [
    # (8 * 6 / 8 + 6 * 9 + 5 * 4) * 4 bytes = 320 bytes.
    "3 arrays, 0.00 MiB per device",
    "  odd (6, 9): fsdp = 4 does not divide 6, tensor = 2 does not divide 9",
    "  replicated, its dimensions are not named: 1, 0.00 MiB",
  ]


@pytest.mark.parametrize(
  ("placement", "spec", "reason"),
  [
    (Placement(min_split_bytes=192), (("fsdp",), ("tensor",)), ""),
    (Placement(min_split_bytes=193), (None, None), "smaller than 193 bytes"),
    (Placement(axes=("tensor",)), (None, ("tensor",)), ""),
    (Placement(axes=()), (None, None), "the placement of its module"),
  ],
)
def test_a_placement_limits_what_is_split(placement, spec, reason):
  mesh = MeshConfig(fsdp=4, tensor=2).make()
  tree = {"kernel": TREE["kernel"]}
  [row] = placements(tree, mesh, placement)
  assert (row.spec, row.reason) == (PartitionSpec(*spec), reason)
  layout = shardings(tree, mesh, placement)
  assert layout["kernel"].spec == PartitionSpec(*spec)


def test_bytes_of_a_device_are_those_of_its_shard():
  rows = {
    r.path: r for r in placements(TREE, MeshConfig(fsdp=4, tensor=2).make())
  }
  assert rows["kernel"].bytes_per_device == 8 * 6 * 4 // 8
  assert rows["odd"].bytes_per_device == 6 * 9 * 4
  assert rows["table"].bytes_per_device == 5 * 4 * 4


@pytest.mark.parametrize(
  ("sizes", "largest_excess"),
  # Measured 1.0033 and 1.0059: biases and small embeddings are whole.
  [({"fsdp": 8}, 1.004), ({"fsdp": 4, "tensor": 2}, 1.006)],
)
def test_the_2b_network_is_split_almost_evenly(sizes, largest_excess):
  network = Network(size("sd3_medium"))
  rows = network.placements(full_size.mesh(**sizes))
  trained = [row for row in rows if row.path.startswith("params/")]
  assert not any(row.is_refused for row in trained)
  total = sum(row.bytes_per_device for row in trained)
  even = 4 * network.num_parameters() / math.prod(sizes.values())
  assert even <= total < largest_excess * even
  whole = [row.path for row in trained if not any(row.spec)]
  assert all("bias" in path for path in whole), whole


def test_a_vocabulary_that_does_not_divide_is_named_in_the_report():
  # 32,100 is divisible by 4 but not by 8.
  rows = Network(size("sd3_medium")).placements(full_size.mesh(tensor=8))
  dropped = {row.path for row in rows if row.is_refused}
  head = "params/text_head/project"
  assert dropped == {f"{head}/kernel", f"{head}/bias"}
  line = f"  {head}/bias (32100,): tensor = 8 does not divide 32100\n"
  assert line in placement_summary(rows)


@pytest.mark.parametrize("name", full_size.MESHES)
def test_the_tables_of_the_full_size_models_are_as_recorded(name):
  """If a change is meant: python -m tests.sharding.full_size."""
  assert full_size.table(name) == full_size.golden(name).read_text()
