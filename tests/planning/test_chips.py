"""The table of accelerators against published figures and each other."""

import jax
import pytest

from ddit_jax.planning.chips import CHIPS, is_roomy, peak_flops


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


def test_chips_with_room_for_whole_weights():
  assert is_roomy("TPU v5") and is_roomy("NVIDIA H100 80GB HBM3")
  assert not is_roomy("TPU v5 lite") and not is_roomy("TPU v6 lite")
  assert not is_roomy("cpu")


def test_all_peaks_are_operations_a_second_of_one_device():
  assert all(1e13 < chip.peak_flops < 1e16 for chip in CHIPS.values())
  assert all(chip.source.startswith("https://") for chip in CHIPS.values())


@pytest.mark.parametrize(
  ("kind", "units", "side"),
  [
    ("TPU v4", 8, 128),
    ("TPU v5 lite", 4, 128),
    ("TPU v5", 8, 128),
    ("TPU v6 lite", 4, 256),
  ],
)
def test_a_clock_and_the_matrix_units_give_the_peak(kind, units, side):
  chip = CHIPS[kind]
  a_cycle = 2 * units * side * side
  assert chip.clock_hz * a_cycle == pytest.approx(chip.peak_flops, rel=0.01)


@pytest.mark.parametrize(
  ("kind", "gigabits"),
  [("TPU v4", 2400), ("TPU v5 lite", 1600), ("TPU v5", 4800)],
)
def test_all_links_of_a_chip_have_its_published_bandwidth(kind, gigabits):
  chip = CHIPS[kind]
  links = 2 * chip.torus_axes * chip.link_bytes
  assert links * 8 == pytest.approx(gigabits * 1e9)
