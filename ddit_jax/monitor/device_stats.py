"""A run's use of the devices' speed and memory, as scalars."""

from collections.abc import Iterable, Mapping

import jax

GIB = 2**30
# Scalar -> its key in a device's statistics.
_MEMORY = {
  "memory/in_use_gib": "bytes_in_use",
  "memory/peak_gib": "peak_bytes_in_use",
}


def speed_scalars(
  steps_per_second: float,
  step_flops: Mapping[str, float],
  *,
  num_devices: int,
  peak: float | None,
) -> dict[str, float]:
  """Model FLOPs per second and utilisation.

  Args:
    steps_per_second: updates per second.
    step_flops: part of the model -> model FLOPs of one update over the global
      batch, recomputation not counted.
    num_devices: devices of the whole job.
    peak: operations per second of one device, see `peak_flops`.

  Returns:
    "speed/model_tflops_per_second" of all devices together and
    "speed/tflops_<part>", which add up to it; with a peak "speed/mfu" too,
    model FLOPs utilisation, as a fraction.
  """
  rates = {part: steps_per_second * flops for part, flops in step_flops.items()}
  total = sum(rates.values())
  scalars = {"speed/model_tflops_per_second": total / 1e12}
  scalars |= {f"speed/tflops_{part}": x / 1e12 for part, x in rates.items()}
  if peak is not None:
    scalars["speed/mfu"] = total / (peak * num_devices)
  return scalars


def memory_scalars(devices: Iterable[jax.Device]) -> dict[str, float]:
  """Memory in GiB of the device that uses most.

  Args:
    devices: of this process; others report nothing.

  Returns:
    "memory/in_use_gib" now and "memory/peak_gib" since the start; without what
    no device reports (a CPU reports neither).
  """
  statistics = [device.memory_stats() or {} for device in devices]
  scalars = {}
  for name, key in _MEMORY.items():
    sizes = [stats[key] for stats in statistics if key in stats]
    if sizes:
      scalars[name] = max(sizes) / GIB
  return scalars


# Dense bfloat16 operations a second of one JAX device, by `device_kind`; from
# the vendors' data sheets, without sparsity. Of a TPU v2, v3 or 7x chip JAX
# shows two devices, so they have half a chip's.
PEAK_FLOPS: dict[str, float] = {
  "TPU v2": 22.5e12,
  "TPU v3": 61.5e12,
  "TPU v4": 275e12,
  "TPU v5 lite": 197e12,
  "TPU v5": 459e12,
  "TPU v6 lite": 918e12,
  "TPU7x": 1153.5e12,
  "NVIDIA A100-SXM4-40GB": 312e12,
  "NVIDIA A100-SXM4-80GB": 312e12,
  "NVIDIA A100-PCIE-40GB": 312e12,
  "NVIDIA A100 80GB PCIe": 312e12,
  "NVIDIA H100 80GB HBM3": 989e12,
  "NVIDIA H100 PCIe": 756e12,
  "NVIDIA H100 NVL": 835e12,
  "NVIDIA H200": 989e12,
  "NVIDIA H200 NVL": 835e12,
  "NVIDIA GH200 480GB": 989e12,
  "NVIDIA B200": 2250e12,
  "NVIDIA L4": 121e12,
  "NVIDIA L40S": 362e12,
}


def peak_flops(device_kind: str) -> float | None:
  """Operations per second of one device; None if its kind is not known."""
  return PEAK_FLOPS.get(device_kind)
