"""Case h: clipping and AdamW written out, from the recorded gradients."""

import numpy as np
import pytest
from parity import train_step
from parity.golden_set import GoldenSetError

from tests.conversion.checkpoints import read_folder
from tests.parity.golden_sets import (
  CHANNELS,
  CONSTANTS,
  END_ID,
  MASK_ID,
  case_of,
  draws,
  golden_of,
)

WEIGHT = "transformer_blocks.1.attn.to_q.weight"
BIAS = "text_proj_out.bias"


def batch(seed):
  draw = draws(seed)
  rng = np.random.default_rng(seed)
  tokens = rng.integers(1, MASK_ID, (2, 4)).astype(np.int32)
  is_masked = rng.uniform(size=tokens.shape) < 0.6
  is_masked[:, 0] = True
  return {
    "x0": tokens,
    "xt": np.where(is_masked, MASK_ID, tokens).astype(np.int32),
    "t": np.array([0.3, 0.8], np.float32),
    "t_img": draw(2, CHANNELS, 4, 4),
    "lat": draw(2, CHANNELS, 4, 4),
    "noise": draw(2, CHANNELS, 4, 4),
    "z": draw(2),
    "drop": np.array([0.5, 0.01], np.float32),
    "ids": tokens[::-1].copy(),
    "nul": np.full((1, 4), END_ID, np.int32),
  }


@pytest.fixture(scope="module")
def case():
  inputs = {
    f"batch{i}/{name}": array
    for i in range(2)
    for name, array in batch(10 + i).items()
  }
  names = [
    f"{kind}/{n}"
    for kind in ("grad", "delta1", "delta2")
    for n in (WEIGHT, BIAS)
  ]
  return case_of("h_train_step", inputs, {name: () for name in names})


@pytest.fixture(scope="module")
def results(case, checkpoints):
  golden = golden_of(h_param_names=[BIAS, WEIGHT])
  found = train_step.outputs(golden, case, checkpoints)
  return {name: np.asarray(array, np.float64) for name, array in found.items()}


def test_losses_add_up(results):
  for step in ("step0", "step1"):
    total = results[f"{step}/image_loss"] + (
      CONSTANTS["text_loss_weight"] * results[f"{step}/text_loss"]
    )
    assert results[f"{step}/loss"] == pytest.approx(total, rel=1e-6)
    assert results[f"{step}/image_loss"] > 0 < results[f"{step}/text_loss"]


def test_norms_are_in_the_listed_order(results):
  expected = [np.linalg.norm(results[f"grad/{n}"]) for n in (BIAS, WEIGHT)]
  np.testing.assert_allclose(results["step0/param_grad_norms"], expected)
  for step in (1, 2):
    changes = [
      np.linalg.norm(results[f"delta{step}/{n}"]) for n in (BIAS, WEIGHT)
    ]
    np.testing.assert_allclose(
      results[f"step{step - 1}/param_delta_norms"], changes
    )
  assert results["step0/grad_norm"] > np.linalg.norm(expected)


def test_the_first_change_is_a_clipped_adamw_step(results, golden_folder):
  tensors = read_folder(golden_folder / "ckpt/ddit/transformer")
  factor = min(1.0, 2.0 / results["step0/grad_norm"])
  for name in (WEIGHT, BIAS):
    start = tensors[name].double().numpy()
    gradient = factor * results[f"grad/{name}"]
    # The first step's moments, corrected for their start at zero.
    direction = gradient / (np.abs(gradient) + 1e-8)
    expected = -5e-5 * (direction + 1e-2 * start)
    # Float32 parameters below 1 are 6e-8 apart. Measured: 3e-8.
    np.testing.assert_allclose(results[f"delta1/{name}"], expected, atol=7e-8)


def test_the_names_of_parameters_must_fit(case, checkpoints):
  for extra, message in (
    ({}, "lacks extra.h_param_names"),
    ({"h_param_names": ["nothing"]}, r"no parameters \['nothing'\]"),
  ):
    with pytest.raises(GoldenSetError, match=message):
      train_step.outputs(golden_of(**extra), case, checkpoints)
