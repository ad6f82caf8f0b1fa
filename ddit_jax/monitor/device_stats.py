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
    peak: operations per second of one device, see `planning.chips`.

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
