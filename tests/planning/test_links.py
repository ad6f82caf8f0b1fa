"""Times of collectives against sums by hand."""

import pytest

from ddit_jax.planning.chips import CHIPS
from ddit_jax.planning.collectives import Collective
from ddit_jax.planning.links import link_times, torus_shape

V5E, V5P = CHIPS["TPU v5 lite"], CHIPS["TPU v5"]
GB = 10**9


def gather(group_size, hidden_cycles=0, kind="all-gather", runs=1, links=None):
  return Collective(
    links=links,
    kind=kind,
    runs=runs,
    bytes=64 * GB,
    group_size=group_size,
    is_overlapped=hidden_cycles > 0,
    hidden_cycles=hidden_cycles,
  )


@pytest.mark.parametrize(
  ("chip", "shape", "group_size", "links"),
  [
    # One side of eight chips is a line, of sixteen a ring.
    (V5E, (8, 8), 8, 1),
    (V5E, (16, 16), 16, 2),
    # All chips: both axes.
    (V5E, (8, 8), 64, 2),
    (V5E, (16, 16), 256, 4),
    # A cube of 4 x 4 x 4 closes along all three.
    (V5P, (4, 4, 4), 4, 2),
    (V5P, (4, 4, 4), 16, 4),
    (V5P, (4, 4, 4), 64, 6),
  ],
)
def test_a_gather_uses_the_links_of_the_axes_it_spans(
  chip, shape, group_size, links
):
  times = link_times([gather(group_size)], chip, shape)
  away = 64 * GB * (group_size - 1) / group_size
  assert times.total == pytest.approx(away / (links * chip.link_bytes))
  assert times.exposed == times.total
  assert times.exposed_bytes == pytest.approx(64 * GB)


def test_an_algorithm_may_use_fewer_links_than_there_are():
  """The 64 chips of a cube as one ring."""
  ring, cube, too_many = (
    link_times([gather(64, links=links)], V5P, (4, 4, 4)).total
    for links in (2, 6, 8)
  )
  assert ring == pytest.approx(3 * cube)
  assert too_many == cube


def test_a_reduction_to_all_takes_twice_as_long():
  one, two = (
    link_times([gather(8, kind=kind)], V5E, (8, 8)).total
    for kind in ("reduce-scatter", "all-reduce")
  )
  assert two == pytest.approx(2 * one)


def test_computation_hides_as_much_as_it_lasts():
  # 56 GB over one link of 50 GB/s: 1.12 s, of which 0.56 s are hidden.
  cycles = int(0.56 * V5E.clock_hz)
  times = link_times([gather(8, cycles, runs=3)], V5E, (8, 8))
  assert times.total == pytest.approx(3 * 1.12)
  assert times.exposed == pytest.approx(3 * 0.56)
  assert times.exposed_bytes == pytest.approx(3 * 32 * GB)
  long = link_times([gather(8, 10 * cycles)], V5E, (8, 8))
  assert (long.exposed, long.exposed_bytes) == (0, 0)


def test_chips_without_rates_have_no_times():
  assert link_times([gather(8)], CHIPS["NVIDIA L4"], (1, 8)) is None


def test_shapes():
  assert torus_shape("4x4x8") == (4, 4, 8)
  for wrong in ("", "4x", "4*4", "0x4", "-4", "999x999"):
    with pytest.raises(ValueError, match=r"shape|65,536"):
      torus_shape(wrong)
