"""The table that benchmarks/gpu.sh prints."""

from benchmarks import gpu


def test_the_table_divides_by_the_products_rate_and_by_the_peers_speed():
  parts = [
    {"part": "matmul", "device": "gpu", "flops_per_second": 800e12},
    {
      "part": "images",
      "batch": {"text_to_image": 32},
      "seconds": 0.5,
      "examples_per_second": 64.0,
      "model_flops_per_second": 400e12,
      "peak_bytes": 60,
      "planned_bytes": 50,
      "longest_operations": {"fusion": 0.25},
    },
    {
      "part": "images_diffusers",
      "batch": {"text_to_image": 32},
      "seconds": 1.0,
      "examples_per_second": 32.0,
      "model_flops_per_second": 200e12,
    },
    {"part": "sampling", "error": "no time was left"},
  ]
  printed = gpu.table(parts)
  assert "Matrix product: 800.0 TFLOP/s" in printed
  assert "| images | 32 | 500.0 | 64.0 | 400.0 | 50.0% | 1.20 |" in printed
  assert "| images_diffusers | 32 | 1000.0 | 32.0 | 200.0 | 25.0% | - |" in (
    printed
  )
  assert "Image loss against diffusers: 2.00 x" in printed
  assert "| sampling | no time was left | " in printed
  assert "Longest in images: fusion 25.0%" in printed
