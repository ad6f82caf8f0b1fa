"""Trees that cannot be stored or do not fit are refused by leaf name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from ddit_jax.checkpoint import tree_match
from ddit_jax.checkpoint.manifest import CheckpointError
from ddit_jax.errors import InputError

F32, BF16 = np.dtype("float32"), np.dtype(jnp.bfloat16)


def test_names_shapes_and_dtypes_of_a_nested_tree():
  tree = {"a": [jnp.ones((2, 3), jnp.bfloat16), {"b": np.ones(())}], "c": None}
  assert tree_match.tree_shapes(tree) == {
    "a.0": ((2, 3), BF16),
    "a.1.b": ((), np.dtype("float64")),
  }


def test_each_kind_of_difference_is_one_phrase():
  stored = {"a": ((2,), F32), "b": ((2,), F32), "old": ((), F32)}
  wanted = {"a": ((3,), F32), "b": ((2,), BF16), "new": ((), F32)}
  assert tree_match._differences(stored, wanted) == [
    "new is missing",
    "old is unexpected",
    "a has shape (2,), the model (3,)",
    "b has dtype float32, the model bfloat16",
  ]
  assert tree_match._differences(stored, stored) == []


@pytest.mark.parametrize(
  ("tree", "message"),
  [
    ({}, "holds no arrays"),
    ({"a": None, "b": ()}, "holds no arrays"),
    ({"a": {"b": "text"}}, r"params:a\.b is a str"),
    ({"a": 3}, "params:a is a int"),
    ({"a": jax.random.key(0)}, r"jax\.random\.key_data"),
    ({"a": np.zeros((0, 3))}, r"params:a is empty \(shape \(0, 3\)\)"),
    ({"a.b": np.ones(1), "a": {"b": np.ones(1)}}, r"two leaves called 'a\.b'"),
  ],
)
def test_what_cannot_be_saved_is_refused(tree, message):
  with pytest.raises(ValueError, match=message):
    tree_match.check_savable("params", tree)


@pytest.mark.parametrize(
  ("leaf", "message"),
  [
    (np.ones(2), "params:a has type ndarray"),
    (jax.ShapeDtypeStruct((2,), F32), "params:a has no sharding"),
  ],
)
def test_an_abstract_leaf_must_say_where_it_goes(leaf, message):
  with pytest.raises(ValueError, match=message):
    tree_match.check_restorable("params", {"a": leaf})


def test_a_leaf_that_stayed_abstract_is_caught():
  sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
  asked = jax.ShapeDtypeStruct((2,), F32, sharding=sharding)
  tree_match.check_restored("params", {"a": jnp.ones(2)}, {"a": asked})
  with pytest.raises(CheckpointError, match="params:a was not restored"):
    tree_match.check_restored("params", {"a": asked}, {"a": asked})
  elsewhere = jax.device_put(jnp.ones(2), jax.devices()[1])
  with pytest.raises(CheckpointError, match="params:a was not restored"):
    tree_match.check_restored("params", {"a": elsewhere}, {"a": asked})


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_named(value):
  mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(AxisType.Auto,))
  split = NamedSharding(mesh, PartitionSpec("fsdp"))
  kernel = np.ones((16, 2), np.float32)
  tree = {"count": jnp.int32(7), "blocks": {"bias": jnp.ones(3, jnp.bfloat16)}}
  tree["blocks"]["kernel"] = jax.device_put(kernel, split)
  tree = jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))
  tree_match.check_finite("weights/x", tree)
  kernel[13, 1] = value
  tree["blocks"]["kernel"] = jax.device_put(kernel, split)
  with pytest.raises(InputError) as caught:
    tree_match.check_finite("weights/x", tree)
  assert str(caught.value) == (
    "weights/x holds values that are not finite in blocks.kernel: use another "
    "checkpoint"
  )
