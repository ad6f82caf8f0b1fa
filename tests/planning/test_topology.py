"""Names of topologies, and what is refused with one line."""

import importlib.util

import pytest

from ddit_jax.errors import InputError
from ddit_jax.planning import topology
from ddit_jax.planning.topology import open_topology


def test_virtual_devices_of_this_machine():
  found = open_topology("cpu:2x4")
  assert (len(found.devices), found.num_chips, found.shape) == (8, 8, (2, 4))
  assert found.chip is None


@pytest.mark.parametrize(
  ("name", "num_slices", "message"),
  [
    ("v5p", 1, "has no shape: write CHIP:SIDES"),
    ("v5p:", 1, "is no shape"),
    ("v5p:4xx4", 1, "is no shape: write the sides, e.g. 4x4x4"),
    ("v5litepod:4x4", 1, "unknown chip 'v5litepod': "),
    ("v6:8x8", 1, "did you mean 'v6e'"),
    ("h100:8", 1, "write nodes and GPUs of a node, e.g. h100:8x8"),
    ("h100:1x4", 2, "has no slices: leave --slices=2 out"),
    ("cpu:8", 0, "--slices of cpu:8 must be in 1 to 8192, got 0"),
    ("v5p:4x4x4", 10**9, "must be in 1 to 1024, got 1000000000"),
    ("cpu:512", 1, "needs 512 virtual devices, but this process has 8"),
  ],
)
def test_what_cannot_be_planned_for(name, num_slices, message):
  with pytest.raises(InputError, match=message) as error:
    open_topology(name, num_slices)
  assert "\n" not in str(error.value)


def test_without_the_compiler_the_way_to_it_is_told(monkeypatch):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  with pytest.raises(InputError, match=r"pip install 'ddit_jax\[tpu\]'"):
    open_topology("v5p:2x2x1")


HAS_LIBTPU = importlib.util.find_spec("libtpu") is not None
needs_libtpu = pytest.mark.skipif(not HAS_LIBTPU, reason="needs libtpu")


@needs_libtpu
@pytest.mark.parametrize(
  ("name", "num_slices", "kind", "num_devices"),
  [
    ("v5e:4x4", 1, "TPU v5 lite", 16),
    ("v5p:2x2x4", 1, "TPU v5", 16),
    ("v6e:4x4", 2, "TPU v6 lite", 32),
    # Two devices a chip.
    ("v4:2x2x2", 1, "TPU v4", 16),
    ("tpu7x:2x2x1", 1, "TPU7x", 8),
  ],
)
def test_slices_of_tpus_that_are_not_here(name, num_slices, kind, num_devices):
  found = open_topology(name, num_slices)
  assert (found.device_kind, len(found.devices)) == (kind, num_devices)
  per_chip = num_devices // found.num_chips
  published = topology.CHIPS[kind]
  whole = published.peak_flops * published.devices_per_chip
  assert found.chip.peak_flops * per_chip == whole


@needs_libtpu
def test_a_shape_that_no_slice_has():
  with pytest.raises(InputError, match="is not known to the TPU compiler"):
    open_topology("v5e:3x5x7")
