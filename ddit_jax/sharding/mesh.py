"""Devices arranged as the named mesh (replica, fsdp, tensor)."""

import dataclasses
import math
from collections.abc import Sequence

import jax
from jax.sharding import AxisType, Mesh

from ddit_jax.sharding.rules import MESH_AXES


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
  """Devices along each mesh axis; one axis may be -1, "the rest".

  Attributes:
    replica: copies of the parameters; only gradients cross this axis.
    fsdp: ways the parameters and the batch are split.
    tensor: ways heads and MLP features are split.
  """

  replica: int = 1
  fsdp: int = -1
  tensor: int = 1

  def __post_init__(self):
    sizes = dataclasses.asdict(self)
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
      ValueError: the sizes do not multiply to the number of devices.
    """
    devices = list(devices if devices is not None else jax.devices())
    return jax.make_mesh(
      self.sizes(len(devices)),
      MESH_AXES,
      axis_types=(AxisType.Auto,) * 3,
      devices=devices,
    )

  def sizes(self, num_devices: int) -> tuple[int, int, int]:
    """The size of each axis, with one -1 replaced by the remaining factor.

    Raises:
      ValueError: they do not multiply to the number of devices.
    """
    sizes = dataclasses.asdict(self)
    known = math.prod(size for size in sizes.values() if size != -1)
    for name in _free(sizes):
      sizes[name] = max(num_devices // known, 1)
    if math.prod(sizes.values()) != num_devices:
      raise ValueError(
        f"mesh {sizes} needs {math.prod(sizes.values())} devices but there are "
        f"{num_devices}; set one of mesh.replica, mesh.fsdp, mesh.tensor to -1"
      )
    return tuple(sizes.values())


def _free(sizes: dict[str, int]) -> list[str]:
  return [name for name, size in sizes.items() if size == -1]


def batch_ways(mesh: Mesh) -> int:
  """The number of devices that the batch dimension is split over."""
  return mesh.shape["replica"] * mesh.shape["fsdp"]


def check_batch_divides(mesh: Mesh, batch_size: int, name: str) -> None:
  """Raises ValueError unless the mesh splits `batch_size` evenly."""
  ways = batch_ways(mesh)
  if batch_size % ways:
    raise ValueError(
      f"{name} = {batch_size} is not divisible by replica x fsdp = {ways} "
      f"of the mesh; use a multiple of {ways}"
    )
