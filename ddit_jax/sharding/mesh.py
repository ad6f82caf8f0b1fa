"""Devices arranged as the named mesh (replica, fsdp, context, tensor)."""

import dataclasses
import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from ddit_jax.sharding.rules import AXIS_RULES, MESH_AXES


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
  """Devices along each mesh axis; one axis may be -1, "the rest".

  Attributes:
    replica: copies of the parameters; only gradients cross this axis. A
      multiple of the number of TPU slices.
    fsdp: ways the parameters and the batch are split.
    context: ways the tokens of every example are split, for long sequences.
    tensor: ways heads, MLP features, vocabulary and, between them, tokens are
      split.
    min_split_bytes: smaller weights are replicated: gathering them takes
      longer to start than to do.
  """

  replica: int = 1
  fsdp: int = -1
  context: int = 1
  tensor: int = 1
  min_split_bytes: int = 2**20

  def __post_init__(self):
    sizes = self._asked()
    if self.min_split_bytes < 0:
      raise ValueError(f"min_split_bytes is negative: {self.min_split_bytes}")
    for name, size in sizes.items():
      if size == 0 or size < -1:
        raise ValueError(f"{name} must be positive or -1, got {size}")
    if list(sizes.values()).count(-1) > 1:
      raise ValueError(
        f"{_free(sizes)[-1]}: only one axis may be -1, got {sizes}"
      )

  def make(self, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of Auto axes over `devices` (default: all of the job's devices).

    Raises:
      ValueError: the sizes do not multiply to the number of devices, or a
        copy of the parameters would lie on two TPU slices.
    """
    devices = list(devices if devices is not None else jax.devices())
    return Mesh(
      arrange_devices(self.sizes(len(devices)), devices),
      MESH_AXES,
      axis_types=(AxisType.Auto,) * len(MESH_AXES),
    )

  def sizes(self, num_devices: int) -> tuple[int, ...]:
    """The size of each axis, with one -1 replaced by the remaining factor.

    Raises:
      ValueError: they do not multiply to the number of devices.
    """
    sizes = self._asked()
    known = math.prod(size for size in sizes.values() if size != -1)
    for name in _free(sizes):
      sizes[name] = max(num_devices // known, 1)
    if math.prod(sizes.values()) != num_devices:
      names = ", ".join(f"mesh.{name}" for name in sizes)
      raise ValueError(
        f"mesh {sizes} needs {math.prod(sizes.values())} devices but there are "
        f"{num_devices}; set one of {names} to -1"
      )
    return tuple(sizes.values())

  def _asked(self) -> dict[str, int]:
    return {axis: getattr(self, axis) for axis in MESH_AXES}


def _free(sizes: dict[str, int]) -> list[str]:
  return [name for name, size in sizes.items() if size == -1]


def arrange_devices(sizes: tuple[int, ...], devices: Sequence) -> np.ndarray:
  """Devices as an array of these sizes, close ones along the last axes.

  Slices lie along `replica`: the links between them are the slowest.

  Raises:
    ValueError: a copy of the parameters would lie on two TPU slices.
  """
  num_slices = len({getattr(d, "slice_index", 0) for d in devices})
  replica, *others = sizes
  if num_slices == 1 or devices[0].platform != "tpu":
    return mesh_utils.create_device_mesh(
      sizes, devices, allow_split_physical_axes=True
    )
  if replica % num_slices:
    raise ValueError(
      f"mesh.replica = {replica} is not a multiple of the {num_slices} slices "
      "of the job: weights would be gathered over the slow links between them"
    )
  return mesh_utils.create_hybrid_device_mesh(
    (replica // num_slices, *others),
    (num_slices, *(1 for _ in others)),
    devices,
    allow_split_physical_axes=True,
  )


def batch_ways(mesh: Mesh) -> int:
  """The number of parts that the examples of a batch are split into."""
  return math.prod(mesh.shape[axis] for axis in AXIS_RULES["batch"])


def check_batch_divides(mesh: Mesh, batch_size: int, name: str) -> None:
  """Raises ValueError unless the mesh splits `batch_size` evenly."""
  ways = batch_ways(mesh)
  if batch_size % ways:
    raise ValueError(
      f"{name} = {batch_size} is not divisible by replica x fsdp = {ways} "
      f"of the mesh; use a multiple of {ways}"
    )
