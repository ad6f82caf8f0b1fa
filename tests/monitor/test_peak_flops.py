"""Known devices have a peak, others none."""

import jax
import pytest

from ddit_jax.monitor.device_stats import PEAK_FLOPS, peak_flops


@pytest.mark.parametrize(
  ("kind", "tera"),
  [
    ("TPU v4", 275),
    ("TPU v5 lite", 197),
    ("TPU v5", 459),
    ("TPU v6 lite", 918),
    ("NVIDIA A100-SXM4-80GB", 312),
    ("NVIDIA H100 80GB HBM3", 989),
    ("NVIDIA H200", 989),
  ],
)
def test_data_sheets(kind, tera):
  assert peak_flops(kind) == tera * 1e12


def test_unknown_devices_have_no_peak():
  assert peak_flops("Somebody's new chip") is None
  assert peak_flops(jax.devices("cpu")[0].device_kind) is None


def test_all_peaks_are_operations_a_second_of_one_device():
  assert all(1e13 < peak < 1e16 for peak in PEAK_FLOPS.values())
