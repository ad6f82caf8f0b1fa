"""Mesh sizes multiply to the devices, or the error says how they would."""

import math

import jax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType

from ddit_jax.sharding.mesh import (
  batch_ways,
  check_batch_divides,
  make_mesh,
  mesh_sizes,
)


def test_by_default_all_devices_lie_along_fsdp():
  mesh = make_mesh()
  assert dict(mesh.shape) == {"replica": 1, "fsdp": 8, "tensor": 1}
  assert set(mesh.devices.flat) == set(jax.devices())


def test_axes_are_auto():
  assert set(make_mesh(tensor=2).axis_types) == {AxisType.Auto}


def test_a_mesh_over_some_devices():
  mesh = make_mesh(fsdp=1, tensor=-1, devices=jax.devices()[:2])
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
  assert mesh_sizes(math.prod(sizes), **asked) == sizes


@pytest.mark.parametrize(
  ("asked", "message"),
  [
    ({"replica": 3, "fsdp": -1, "tensor": 1}, "needs 6 devices .* are 8"),
    ({"replica": 1, "fsdp": 4, "tensor": 1}, "needs 4 devices .* are 8"),
    ({"replica": 16, "fsdp": -1, "tensor": 1}, "needs 16 devices .* are 8"),
    ({"replica": -1, "fsdp": -1, "tensor": 1}, "only one mesh axis"),
    ({"replica": 0, "fsdp": 8, "tensor": 1}, "mesh.replica .* got 0"),
    ({"replica": 1, "fsdp": 8, "tensor": -2}, "mesh.tensor .* got -2"),
  ],
)
def test_sizes_that_do_not_fit_are_refused(asked, message):
  with pytest.raises(ValueError, match=message):
    mesh_sizes(8, **asked)


def test_the_batch_is_split_over_replica_and_fsdp():
  mesh = make_mesh(replica=2, fsdp=2, tensor=2)
  assert batch_ways(mesh) == 4
  check_batch_divides(mesh, 12, "data.batch")
  with pytest.raises(ValueError, match=r"data.batch = 10 .* multiple of 4"):
    check_batch_divides(mesh, 10, "data.batch")
