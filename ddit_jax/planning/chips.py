"""Figures of accelerators, in one table, each with its source."""

import dataclasses

_TPU_DOCS = "https://docs.cloud.google.com/tpu/docs/"
_NVIDIA = "https://www.nvidia.com/en-us/data-center/"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
  """One JAX device.

  Attributes:
    peak_flops: dense bfloat16 operations a second, without sparsity.
    source: where its figures are published.
    hbm_gib: memory in GiB; None if the table does not have it.
    hbm_rate: of that memory in bytes a second; None likewise.
    clock_hz: of the matrix units; None if unknown. It is the peak divided by
      the operations of all matrix units in a cycle (two for each cell; 128 x
      128 cells, 256 x 256 from v6e on).
    torus_axes: dimensions of the torus of chips; 0 if they are switched.
    link_bytes: a second, in one direction of one link of a torus, which has two
      for each axis.
    devices_per_chip: JAX devices that share a chip, and these figures.
  """

  peak_flops: float
  source: str
  hbm_gib: float | None = None
  hbm_rate: float | None = None
  clock_hz: float | None = None
  torus_axes: int = 0
  link_bytes: float | None = None
  devices_per_chip: int = 1


# By `device_kind`. Interconnects of TPUs: the documentation gives a chip's
# bandwidth over all links; 1,600 Gbit/s of v5e are 50 GB/s for each of four.
CHIPS: dict[str, Chip] = {
  "TPU v2": Chip(
    peak_flops=22.5e12,
    source=_TPU_DOCS + "v2",
    hbm_gib=8,
    hbm_rate=700e9,
    clock_hz=0.7e9,
    devices_per_chip=2,
  ),
  "TPU v3": Chip(
    peak_flops=61.5e12,
    source=_TPU_DOCS + "v3",
    hbm_gib=16,
    hbm_rate=900e9,
    clock_hz=0.94e9,
    devices_per_chip=2,
  ),
  # 2,400 Gbit/s over six links.
  "TPU v4": Chip(
    peak_flops=275e12,
    source=_TPU_DOCS + "v4",
    hbm_gib=32,
    hbm_rate=1200e9,
    clock_hz=1.05e9,
    torus_axes=3,
    link_bytes=50e9,
  ),
  "TPU v5 lite": Chip(
    peak_flops=197e12,
    source=_TPU_DOCS + "v5e",
    hbm_gib=16,
    hbm_rate=800e9,
    clock_hz=1.5e9,
    torus_axes=2,
    link_bytes=50e9,
  ),
  # 4,800 Gbit/s over six links.
  "TPU v5": Chip(
    peak_flops=459e12,
    source=_TPU_DOCS + "v5p",
    hbm_gib=95,
    hbm_rate=2765e9,
    clock_hz=1.75e9,
    torus_axes=3,
    link_bytes=100e9,
  ),
  # 3,200 Gbit/s over four links.
  "TPU v6 lite": Chip(
    peak_flops=918e12,
    source=_TPU_DOCS + "v6e",
    hbm_gib=32,
    hbm_rate=1600e9,
    clock_hz=1.75e9,
    torus_axes=2,
    link_bytes=100e9,
  ),
  # A chip has 2,307 TFLOP/s, 192 GiB and 1,200 GB/s in both directions
  # together; JAX shows it as two devices.
  "TPU7x": Chip(
    peak_flops=1153.5e12,
    source=_TPU_DOCS + "tpu7x",
    hbm_gib=96,
    hbm_rate=3690e9,
    torus_axes=3,
    link_bytes=50e9,
    devices_per_chip=2,
  ),
  "NVIDIA A100-SXM4-40GB": Chip(
    peak_flops=312e12, hbm_gib=40, source=_NVIDIA + "a100/"
  ),
  "NVIDIA A100-SXM4-80GB": Chip(
    peak_flops=312e12, hbm_gib=80, source=_NVIDIA + "a100/"
  ),
  "NVIDIA A100-PCIE-40GB": Chip(
    peak_flops=312e12, hbm_gib=40, source=_NVIDIA + "a100/"
  ),
  "NVIDIA A100 80GB PCIe": Chip(
    peak_flops=312e12, hbm_gib=80, source=_NVIDIA + "a100/"
  ),
  "NVIDIA H100 80GB HBM3": Chip(
    peak_flops=989e12,
    source=_NVIDIA + "h100/",
    hbm_gib=80,
  ),
  "NVIDIA H100 PCIe": Chip(
    peak_flops=756e12, hbm_gib=80, source=_NVIDIA + "h100/"
  ),
  "NVIDIA H100 NVL": Chip(
    peak_flops=835e12, hbm_gib=94, source=_NVIDIA + "h100/"
  ),
  # 141 GB.
  "NVIDIA H200": Chip(
    peak_flops=989e12,
    source=_NVIDIA + "h200/",
    hbm_gib=131,
  ),
  "NVIDIA H200 NVL": Chip(
    peak_flops=835e12, hbm_gib=131, source=_NVIDIA + "h200/"
  ),
  "NVIDIA GH200 480GB": Chip(
    peak_flops=989e12, source=_NVIDIA + "grace-hopper-superchip/"
  ),
  "NVIDIA B200": Chip(peak_flops=2250e12, source=_NVIDIA + "dgx-b200/"),
  "NVIDIA L4": Chip(peak_flops=121e12, hbm_gib=24, source=_NVIDIA + "l4/"),
  "NVIDIA L40S": Chip(peak_flops=362e12, hbm_gib=48, source=_NVIDIA + "l40s/"),
}

# Memory from which weights may be whole: in bfloat16 the 2.1 B network, its
# gradient and T5-XXL take 17 GiB.
_ROOMY_GIB = 64


def is_roomy(device_kind: str) -> bool:
  """Whether whole weights take a small part of a device's memory."""
  chip = CHIPS.get(device_kind)
  return chip is not None and (chip.hbm_gib or 0) >= _ROOMY_GIB


def peak_flops(device_kind: str) -> float | None:
  """Operations per second of one device; None if its kind is not known."""
  chip = CHIPS.get(device_kind)
  return chip and chip.peak_flops
