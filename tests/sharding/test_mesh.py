"""Mesh sizes multiply to the devices, or the error says how they would."""

import dataclasses
import math

import jax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType

from ddit_jax.sharding.mesh import (
  MeshConfig,
  arrange_devices,
  batch_ways,
  check_batch_divides,
)
from ddit_jax.sharding.rules import MESH_AXES


def test_by_default_all_devices_lie_along_fsdp():
  mesh = MeshConfig().make()
  assert tuple(mesh.shape.values()) == (1, 8, 1, 1)
  assert set(mesh.devices.flat) == set(jax.devices())


def test_axes_are_auto():
  assert set(MeshConfig(tensor=2).make().axis_types) == {AxisType.Auto}


def test_a_mesh_over_some_devices():
  mesh = MeshConfig(fsdp=1, tensor=-1).make(jax.devices()[:2])
  assert tuple(mesh.shape.values()) == (1, 1, 1, 2)


@settings(max_examples=60, deadline=None)
@given(
  sizes=st.tuples(*[st.integers(1, 6)] * 4),
  free=st.sampled_from([*MESH_AXES, None]),
)
def test_one_free_axis_takes_what_is_left(sizes, free):
  asked = dict(zip(MESH_AXES, sizes, strict=True))
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
    ({"context": 3}, "needs 6 devices .* mesh.context, mesh.tensor to -1"),
  ],
)
def test_sizes_that_do_not_fit_are_refused(asked, message):
  with pytest.raises(ValueError, match=message):
    MeshConfig(**asked).sizes(8)


@dataclasses.dataclass(frozen=True)
class Chip:
  """What `mesh_utils` asks of a TPU: two slices of 2 x 2 chips."""

  id: int
  platform: str = "tpu"
  device_kind: str = "TPU v5 lite"

  @property
  def slice_index(self) -> int:
    return self.id // 4

  @property
  def coords(self) -> tuple[int, int, int]:
    return self.id % 2, self.id % 4 // 2, 0

  @property
  def core_on_chip(self) -> int:
    return 0


def test_slices_lie_along_replica():
  chips = [Chip(i) for i in range(8)]
  halves = arrange_devices((2, 2, 1, 2), chips)
  slices = [[chip.slice_index for chip in half.flat] for half in halves]
  assert slices == [[0] * 4, [1] * 4]
  with pytest.raises(ValueError, match=r"replica = 1 .* 2 slices"):
    arrange_devices((1, 8, 1, 1), chips)


def test_nodes_of_gpus_may_share_any_axis():
  gpus = [Chip(i, platform="gpu", device_kind="NVIDIA") for i in range(8)]
  [rows] = arrange_devices((1, 2, 1, 4), gpus)
  assert [[gpu.id for gpu in row.flat] for row in rows] == [
    [0, 1, 2, 3],
    [4, 5, 6, 7],
  ]


def test_the_batch_is_split_over_replica_and_fsdp():
  mesh = MeshConfig(replica=2, fsdp=2, tensor=2).make()
  assert batch_ways(mesh) == 4
  assert batch_ways(MeshConfig(context=2, tensor=2).make()) == 2
  check_batch_divides(mesh, 12, "data.batch")
  with pytest.raises(ValueError, match=r"data.batch = 10 .* multiple of 4"):
    check_batch_divides(mesh, 10, "data.batch")
