"""Mesh sizes multiply to the devices, or the error says how they would."""

import math

import jax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType

from ddit_jax.sharding.mesh import MeshConfig, batch_ways, check_batch_divides


def test_by_default_all_devices_lie_along_fsdp():
  mesh = MeshConfig().make()
  assert dict(mesh.shape) == {"replica": 1, "fsdp": 8, "tensor": 1}
  assert set(mesh.devices.flat) == set(jax.devices())


def test_axes_are_auto():
  assert set(MeshConfig(tensor=2).make().axis_types) == {AxisType.Auto}


def test_a_mesh_over_some_devices():
  mesh = MeshConfig(fsdp=1, tensor=-1).make(jax.devices()[:2])
  assert dict(mesh.shape) == {"replica": 1, "fsdp": 1, "tensor": 2}


@settings(max_examples=60, deadline=None)
@given(
  sizes=st.tuples(*[st.integers(1, 6)] * 3),
  free=st.sampled_from(["replica", "fsdp", "tensor", None]),
)
def test_one_free_axis_takes_what_is_left(sizes, free):
  asked = dict(zip(("replica", "fsdp", "tensor"), sizes, strict=True))
  if free is not None:
    asked[free] = -1
  assert MeshConfig(**asked).sizes(math.prod(sizes)) == sizes


@pytest.mark.parametrize(
  ("asked", "message"),
  [
    ({"replica": 3, "fsdp": -1, "tensor": 1}, "needs 6 devices .* are 8"),
    ({"replica": 1, "fsdp": 4, "tensor": 1}, "needs 4 devices .* are 8"),
    ({"replica": 16, "fsdp": -1, "tensor": 1}, "needs 16 devices .* are 8"),
    ({"replica": -1, "fsdp": -1, "tensor": 1}, "^fsdp: only one axis"),
    ({"replica": 0, "fsdp": 8, "tensor": 1}, "^replica .* got 0"),
    ({"replica": 1, "fsdp": 8, "tensor": -2}, "^tensor .* got -2"),
  ],
)
def test_sizes_that_do_not_fit_are_refused(asked, message):
  with pytest.raises(ValueError, match=message):
    MeshConfig(**asked).sizes(8)


def test_the_batch_is_split_over_replica_and_fsdp():
  mesh = MeshConfig(replica=2, fsdp=2, tensor=2).make()
  assert batch_ways(mesh) == 4
  check_batch_divides(mesh, 12, "data.batch")
  with pytest.raises(ValueError, match=r"data.batch = 10 .* multiple of 4"):
    check_batch_divides(mesh, 10, "data.batch")
