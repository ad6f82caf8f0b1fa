"""Devices arranged as the named mesh (replica, fsdp, tensor)."""

import math

import jax
from jax.sharding import AxisType, Mesh

from ddit_jax.sharding.rules import MESH_AXES


def make_mesh(
  *, replica: int = 1, fsdp: int = -1, tensor: int = 1, devices=None
) -> Mesh:
  """A mesh of Auto axes over `devices` (default: all of the job's devices).

  Args:
    replica: copies of the parameters; only gradients cross this axis.
    fsdp: ways the parameters and the batch are split; -1 takes what is left.
    tensor: ways heads and MLP features are split.
    devices: the devices to use, or None.

  Raises:
    ValueError: the sizes do not multiply to the number of devices.
  """
  devices = list(devices if devices is not None else jax.devices())
  sizes = mesh_sizes(len(devices), replica=replica, fsdp=fsdp, tensor=tensor)
  return jax.make_mesh(
    sizes, MESH_AXES, axis_types=(AxisType.Auto,) * 3, devices=devices
  )


def mesh_sizes(
  num_devices: int, *, replica: int, fsdp: int, tensor: int
) -> tuple[int, int, int]:
  """The three axis sizes, with one -1 replaced by what is left over."""
  sizes = {"replica": replica, "fsdp": fsdp, "tensor": tensor}
  for name, size in sizes.items():
    if size == 0 or size < -1:
      raise ValueError(f"mesh.{name} must be positive or -1, got {size}")
  free = [name for name, size in sizes.items() if size == -1]
  if len(free) > 1:
    raise ValueError(f"only one mesh axis may be -1, got {sizes}")
  known = math.prod(size for size in sizes.values() if size != -1)
  if free:
    sizes[free[0]] = max(num_devices // known, 1)
  if math.prod(sizes.values()) != num_devices:
    raise ValueError(
      f"mesh {sizes} needs {math.prod(sizes.values())} devices but there are "
      f"{num_devices}; set one of mesh.replica, mesh.fsdp, mesh.tensor to -1"
    )
  return sizes["replica"], sizes["fsdp"], sizes["tensor"]


def batch_ways(mesh: Mesh) -> int:
  """Over how many devices the batch dimension is split."""
  return mesh.shape["replica"] * mesh.shape["fsdp"]


def check_batch_divides(mesh: Mesh, batch_size: int, name: str) -> None:
  """Raises ValueError unless the mesh splits `batch_size` evenly."""
  ways = batch_ways(mesh)
  if batch_size % ways:
    raise ValueError(
      f"{name} = {batch_size} is not divisible by replica x fsdp = {ways} "
      f"of the mesh; use a multiple of {ways}"
    )
