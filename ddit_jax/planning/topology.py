"""Devices to compile for, that need not be attached."""

import contextlib
import dataclasses
import importlib.util
import math
import os

import jax

from ddit_jax.errors import InputError, suggest
from ddit_jax.planning.chips import CHIPS, Chip
from ddit_jax.planning.links import MAX_CHIPS, torus_shape

_TPUS = ("v2", "v3", "v4", "v5e", "v5p", "v6e", "tpu7x")
# Chip -> device kind of its nodes' GPUs, whose compiler is not used.
_GPUS = {"h100": "NVIDIA H100 80GB HBM3", "h200": "NVIDIA H200"}
_CPU = "cpu"
_CPU_COUNT = "xla_force_host_platform_device_count"
# libtpu looks for the machine's own TPUs and for other processes that use it,
# and warns if nothing says what the machine's are; the answer changes nothing.
_LIBTPU_ENVIRONMENT = {
  "TPU_ACCELERATOR_TYPE": "v5p-8",
  "TPU_SKIP_MDS_QUERY": "1",
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
  "TPU_WORKER_HOSTNAMES": "localhost",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Topology:
  """Devices of one or several slices.

  Attributes:
    name: as given, "v5p:4x4x4".
    num_slices: how many of them, joined by the data centre's network.
    shape: chips along each axis of a slice; of GPUs (nodes, GPUs of a node).
    devices: all, for a mesh; they can be compiled for, not run on.
    stands_for: the kind of the devices that virtual ones stand for, of which
      shapes are known alone; "" for those that can be compiled for.
  """

  name: str
  num_slices: int
  shape: tuple[int, ...]
  devices: list[jax.Device]
  stands_for: str = ""

  @property
  def device_kind(self) -> str:
    return self.stands_for or self.devices[0].device_kind

  @property
  def num_chips(self) -> int:
    return self.num_slices * math.prod(self.shape)

  @property
  def chip(self) -> Chip | None:
    """Figures of one device; None where the table has none.

    A description may show two devices where a running TPU v4 shows one.
    """
    chip = CHIPS.get(self.device_kind)
    if chip is None:
      return None
    shown = len(self.devices) // self.num_chips
    if shown == chip.devices_per_chip:
      return chip
    return dataclasses.replace(
      chip,
      peak_flops=chip.peak_flops / shown,
      hbm_gib=chip.hbm_gib / shown,
      devices_per_chip=shown,
    )


def open_topology(name: str, num_slices: int = 1) -> Topology:
  """The devices of "v5p:4x4x4", "v5e:8x8", "h100:8x8" or "cpu:8".

  Args:
    name: chip, a colon, and the sides of a slice in chips.
    num_slices: slices of this shape; GPUs have one.

  Raises:
    InputError: an unknown chip or shape, or its compiler is not installed.
  """
  chip, colon, sides = name.partition(":")
  if not colon:
    raise InputError(
      f"--topology={name} has no shape: write CHIP:SIDES, e.g. v5p:4x4x4, "
      "v5e:8x8 or cpu:8"
    )
  try:
    shape = torus_shape(sides)
  except ValueError as error:
    raise InputError(f"--topology={name}: {error}") from error
  most = MAX_CHIPS // math.prod(shape)
  if not 1 <= num_slices <= most:
    raise InputError(
      f"--slices of {name} must be in 1 to {most}, got {num_slices}"
    )
  if chip in _GPUS and len(shape) != 2:
    raise InputError(
      f"--topology={name}: write nodes and GPUs of a node, e.g. {chip}:8x8"
    )
  if chip in _GPUS and num_slices > 1:
    raise InputError(
      f"--topology={name} has no slices: leave --slices={num_slices} out, and "
      "write all nodes into the shape"
    )
  if chip == _CPU or chip in _GPUS:
    devices = _cpu_devices(name, shape, num_slices)
  elif chip in _TPUS:
    devices = _tpu_devices(name, num_slices)
  else:
    known = (*_TPUS, *_GPUS, _CPU)
    raise InputError(
      f"--topology={name}: unknown chip {chip!r}: {suggest(chip, known)}"
    )
  return Topology(
    name=name,
    num_slices=num_slices,
    shape=shape,
    devices=devices,
    stands_for=_GPUS.get(chip, ""),
  )


def _cpu_devices(
  name: str, shape: tuple[int, ...], num_slices: int
) -> list[jax.Device]:
  """Virtual devices of this machine, for tests and to try things out."""
  number = math.prod(shape) * num_slices
  if _CPU_COUNT not in os.environ.get("XLA_FLAGS", ""):
    # Once JAX has started, it has the devices that it has.
    with contextlib.suppress(RuntimeError):
      jax.config.update("jax_num_cpu_devices", number)
  devices = jax.devices(_CPU)
  if len(devices) < number:
    raise InputError(
      f"--topology={name} needs {number} virtual devices, but this process has "
      f"{len(devices)}: set XLA_FLAGS=--{_CPU_COUNT}={number}"
    )
  return devices[:number]


def _tpu_devices(name: str, num_slices: int) -> list[jax.Device]:
  if importlib.util.find_spec("libtpu") is None:
    raise InputError(
      f"--topology={name} needs the TPU compiler: pip install 'ddit_jax[tpu]', "
      "or plan for cpu:8"
    )
  for variable, value in _LIBTPU_ENVIRONMENT.items():
    os.environ.setdefault(variable, value)
  from jax.experimental import topologies

  slices = {"num_slices": num_slices} if num_slices > 1 else {}
  try:
    description = topologies.get_topology_desc(
      topology_name=name, platform="tpu", **slices
    )
  except (jax.errors.JaxRuntimeError, ValueError, RuntimeError) as error:
    raise InputError(
      f"--topology={name} is not known to the TPU compiler: "
      f"{str(error).splitlines()[0]}"
    ) from error
  return list(description.devices)
