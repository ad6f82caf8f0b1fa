"""XLA's flags for virtual CPU devices; JAX must not have started yet."""

import importlib.metadata


def xla_flags(num_devices: int) -> str:
  """The value of XLA_FLAGS for this many virtual devices.

  XLA's newer code generator for fused loops takes more than half of the tests'
  compile time (42 s of CPU against 19 s for a short training run), so the
  older one is used where the flag is known to exist: XLA aborts on unknown
  flags. It also splits each program, to compile its parts at the same time:
  a tenth of the CPU time, and the other workers of the tests need that.
  """
  flags = f"--xla_force_host_platform_device_count={num_devices}"
  if importlib.metadata.version("jaxlib").startswith("0.10."):
    flags += " --xla_cpu_use_fusion_emitters=false"
    flags += " --xla_cpu_parallel_codegen_split_count=1"
  return flags
