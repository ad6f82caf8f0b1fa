"""Speed and memory as scalars."""

import jax
import pytest

from ddit_jax.monitor.device_stats import memory_scalars, speed_scalars

FLOPS = {"network": 6e12, "text_encoder": 3e12, "vae": 1e12}


class Device:
  """As much of a device as tells its memory."""

  def __init__(self, stats):
    self._stats = stats

  def memory_stats(self):
    return self._stats


def test_a_step_of_ten_teraflop_twice_a_second():
  scalars = speed_scalars(2.0, FLOPS, num_devices=4, peak=10e12)
  assert scalars == pytest.approx(
    {
      "speed/model_tflops_per_second": 20.0,
      "speed/tflops_network": 12.0,
      "speed/tflops_text_encoder": 6.0,
      "speed/tflops_vae": 2.0,
      "speed/mfu": 0.5,
    }
  )


def test_without_a_known_peak_there_is_no_utilisation():
  scalars = speed_scalars(2.0, FLOPS, num_devices=4, peak=None)
  assert "speed/mfu" not in scalars
  assert len(scalars) == 4


def test_the_fullest_device_counts():
  devices = [
    Device({"bytes_in_use": 2**30, "peak_bytes_in_use": 3 * 2**30}),
    Device({"bytes_in_use": 2 * 2**30, "peak_bytes_in_use": 2 * 2**30}),
    Device(None),
  ]
  assert memory_scalars(devices) == {
    "memory/in_use_gib": 2.0,
    "memory/peak_gib": 3.0,
  }


def test_a_statistic_that_is_not_reported_is_left_out():
  assert memory_scalars([Device({"bytes_in_use": 0})]) == {
    "memory/in_use_gib": 0.0
  }


def test_a_cpu_reports_nothing():
  assert memory_scalars(jax.local_devices(backend="cpu")) == {}
