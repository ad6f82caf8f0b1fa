"""Adapters: their shapes, their start, and merging against slow loops."""

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from ddit_jax.lora.lora import LoraConfig, LoraNetwork, merge
from tests.lora import tiny_lora

# Depth 2, width 16, two heads of 8, hidden 64, rank 3.
SHAPES = {
  ("qkv", "down"): (2, 16, 3),
  ("qkv", "up"): (2, 3, 3, 2, 8),
  ("out", "down"): (2, 2, 8, 3),
  ("out", "up"): (2, 3, 16),
  ("mlp", "in", "down"): (2, 16, 3),
  ("mlp", "in", "up"): (2, 3, 64),
  ("mlp", "out", "down"): (2, 64, 3),
  ("mlp", "out", "up"): (2, 3, 16),
}


def adapters_of(*targets):
  lora = LoraConfig(rank=3, alpha=6.0, targets=",".join(targets))
  network = LoraNetwork(tiny_lora.NETWORK, lora)
  return flatten_dict(jax.jit(network.init)(jax.random.key(0))["params"])


@pytest.mark.parametrize(
  ("targets", "modules"),
  [
    (("attention",), {"qkv", "out"}),
    (("mlp",), {"mlp"}),
    (("attention", "mlp"), {"qkv", "out", "mlp"}),
  ],
)
def test_the_targets_of_both_streams_get_adapters(targets, modules):
  want = {
    ("blocks", stream, *path): shape
    for stream in ("image", "text")
    for path, shape in SHAPES.items()
    if path[0] in modules
  }
  assert {k: v.shape for k, v in adapters_of(*targets).items()} == want


def test_up_is_zero_and_down_is_drawn_as_peft_draws_it():
  for path, array in adapters_of("attention", "mlp").items():
    if path[-1] == "up":
      assert not np.any(array)
      continue
    bound = np.prod(array.shape[1:-1]) ** -0.5
    # Kaiming's uniform with a = sqrt(5): +-1/sqrt(inputs).
    assert np.abs(array).max() <= bound
    assert 0.85 * bound < np.abs(array).max()
    assert abs(array.std() / (bound / 3**0.5) - 1) < 0.2


def test_no_two_adapters_start_alike():
  downs = [a for p, a in adapters_of("attention").items() if p[-1] == "down"]
  rows = {np.asarray(block).tobytes() for down in downs for block in down}
  assert len(rows) == 2 * len(downs)


def test_merging_adds_the_scaled_products_and_nothing_else():
  base = jax.tree.map(np.asarray, tiny_lora.base())
  adapters = tiny_lora.variables(is_trained=True)["params"]
  got = flatten_dict(jax.jit(merge)(base, adapters, 2.0))
  want = {k: v.astype(np.float64) for k, v in flatten_dict(base).items()}
  flat = flatten_dict(jax.tree.map(np.asarray, adapters))
  for path in {path[:-1] for path in flat}:
    down, up = flat[*path, "down"], flat[*path, "up"]
    kernel = want[*path, "kernel"]
    for layer in range(2):
      # [inputs, rank] @ [rank, outputs], as the paper has it.
      change = down[layer].reshape(-1, 3) @ up[layer].reshape(3, -1)
      kernel[layer] += 2.0 * change.reshape(kernel[layer].shape)
  assert got.keys() == want.keys()
  for path, array in want.items():
    # Measured 4e-7.
    np.testing.assert_allclose(got[path], array, atol=3e-6)
    is_adapted = path[-1] == "kernel" and (*path[:-1], "down") in flat
    assert np.array_equal(got[path], flatten_dict(base)[path]) != is_adapted


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"rank": -1}, "^rank is negative: -1; 0 is off"),
    ({"alpha": 0.0}, "^alpha must be positive, got 0"),
  ],
)
def test_impossible_settings_are_refused(changes, message):
  with pytest.raises(ValueError, match=message):
    LoraConfig(**{"rank": 2, "alpha": 2.0} | changes)


def test_a_rank_over_the_kernels_is_refused():
  with pytest.raises(ValueError, match=r"rank 17 .*image/out allows \(16\)"):
    LoraNetwork(tiny_lora.NETWORK, LoraConfig(rank=17, alpha=1.0))
