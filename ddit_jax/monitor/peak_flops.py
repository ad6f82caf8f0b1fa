"""The fastest that known accelerators multiply bfloat16 matrices."""

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
  """Operations a second of one device; None if its kind is not known."""
  return PEAK_FLOPS.get(device_kind)
