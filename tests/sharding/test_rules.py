"""The table, what it refuses, and that constraints really act."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from ddit_jax.sharding.mesh import MeshConfig
from ddit_jax.sharding.rules import (
  AXIS_RULES,
  MESH_AXES,
  axes_of,
  constrain,
  divisible_spec,
  partition_spec,
  table,
)

MESH_SHAPE = {"replica": 2, "fsdp": 4, "context": 1, "tensor": 3}


@pytest.mark.parametrize(
  ("names", "want"),
  [
    (
      ("batch", "tokens", "mlp"),
      (("replica", "fsdp"), ("context",), ("tensor",)),
    ),
    (("batch", "stream_tokens"), (("replica", "fsdp"), ("context", "tensor"))),
    (("layers", "embed", "mlp"), (None, ("fsdp",), ("tensor",))),
    (("heads", None, "embed"), (("tensor",), None, ("fsdp",))),
    ((), ()),
  ],
)
def test_names_become_mesh_axes(names, want):
  assert partition_spec(*names) == PartitionSpec(*want)


def test_the_table_names_only_axes_of_the_mesh():
  used = {axis for axes in AXIS_RULES.values() for axis in axes or ()}
  assert used == set(MESH_AXES)


def test_a_misspelt_name_lists_the_table():
  with pytest.raises(ValueError, match=r"'embde'.*'embed'"):
    partition_spec("embde")


@pytest.mark.parametrize(
  "names",
  [
    ("embed", "embed"),
    ("batch", "embed"),
    ("heads", "mlp"),
    ("stream_tokens", "mlp"),
  ],
)
def test_a_mesh_axis_cannot_be_used_twice(names):
  with pytest.raises(ValueError, match="uses a mesh axis twice"):
    partition_spec(*names)


@pytest.mark.parametrize(
  ("shape", "want"),
  [
    ((8, 6), (("replica", "fsdp"), "tensor")),
    # Two divides 12, two times four does not.
    ((12, 6), ("replica", "tensor")),
    ((3, 6), (None, "tensor")),
    ((16, 7), (("replica", "fsdp"), None)),
  ],
)
def test_axes_that_do_not_divide_are_left_out(shape, want):
  asked = PartitionSpec(("replica", "fsdp"), "tensor")
  assert divisible_spec(asked, shape, MESH_SHAPE) == PartitionSpec(*want)


def test_axes_of_one_entry():
  assert axes_of(None) == ()
  assert axes_of("fsdp") == ("fsdp",)
  assert axes_of(("replica", "fsdp")) == ("replica", "fsdp")


def test_the_printed_table_has_a_line_a_name():
  lines = table().splitlines()
  assert [line.split()[0] for line in lines] == list(AXIS_RULES)
  assert lines[0].split(maxsplit=1) == ["batch", "replica x fsdp"]
  assert lines[list(AXIS_RULES).index("tokens")].split() == [
    "tokens",
    "context",
  ]
  assert lines[list(AXIS_RULES).index("layers")].split() == ["layers", "-"]


def pinned(array):
  """A product whose result is pinned, so that its layout can be read."""
  return constrain(2 * array, "batch", "tokens", "mlp")


def test_without_a_mesh_nothing_is_constrained():
  text = jax.jit(pinned).lower(jnp.ones((8, 2, 4))).as_text()
  assert "sharding_constraint" not in text
  assert "@Sharding" not in text


def test_under_a_mesh_the_constraint_decides_the_layout():
  mesh = MeshConfig(replica=2, fsdp=2, tensor=2).make()
  with jax.set_mesh(mesh):
    lowered = jax.jit(pinned).lower(jnp.ones((8, 2, 4)))
    result = jax.jit(pinned)(jnp.ones((8, 2, 4)))
  assert "sharding_constraint" in lowered.as_text()
  want = NamedSharding(mesh, PartitionSpec(("replica", "fsdp"), None, "tensor"))
  assert result.sharding.is_equivalent_to(want, 3)
  assert {s.data.shape for s in result.addressable_shards} == {(2, 2, 2)}


def test_a_dimension_that_does_not_divide_is_not_split():
  mesh = MeshConfig(replica=2, fsdp=2, tensor=2).make()
  with jax.set_mesh(mesh):
    result = jax.jit(pinned)(jnp.ones((8, 2, 5)))
  assert {s.data.shape for s in result.addressable_shards} == {(2, 2, 5)}


def test_constrained_values_are_unchanged():
  array = jnp.arange(64.0).reshape(8, 2, 4)
  with jax.set_mesh(MeshConfig(fsdp=4, tensor=2).make()):
    result = jax.jit(pinned)(array)
  assert (jax.device_get(result) == jax.device_get(2 * array)).all()
