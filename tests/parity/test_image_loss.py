"""Case e: the loss by numpy, from the predicted velocity alone."""

import numpy as np
import pytest
from parity import image_loss

from tests.parity.golden_sets import CHANNELS, END_ID, case_of, draws, golden_of

NORMALS = np.array([0.3, -1.2, 2.0], np.float32)
UNIFORMS = np.array([0.05, 0.1, 0.7], np.float32)


@pytest.fixture(scope="module")
def case():
  draw = draws(7)
  return case_of(
    "e_image_loss",
    {
      "latents": draw(3, CHANNELS, 4, 6),
      "noise": draw(3, CHANNELS, 4, 6),
      "z_normal": NORMALS,
      "dropout_uniform": UNIFORMS,
      "caption_ids": np.array([[3, 4, 1], [5, 1, 1], [6, 7, 1]], np.int32),
      "null_ids": np.full((1, 3), END_ID, np.int32),
    },
    {},
  )


@pytest.fixture(scope="module")
def results(case, checkpoints):
  found = image_loss.outputs(golden_of(), case, checkpoints)
  return {name: np.asarray(array, np.float64) for name, array in found.items()}


def test_times_and_noisy_latents(case, results):
  index = np.floor(1000 / (1 + np.exp(-NORMALS.astype(np.float64))))
  sigma = (1000 - index) / 1000
  # Measured: 1e-7, relative.
  np.testing.assert_allclose(results["sigma"], sigma, rtol=1e-6)
  np.testing.assert_allclose(results["timestep"], 1000 - index, rtol=1e-6)
  wide = sigma[:, None, None, None]
  clean, noise = (
    case[name].astype(np.float64) for name in ("latents", "noise")
  )
  np.testing.assert_allclose(
    results["noisy_latents"], (1 - wide) * clean + wide * noise, atol=1e-6
  )
  np.testing.assert_allclose(
    results["velocity_target"], noise - clean, atol=1e-6
  )


def test_only_captions_below_a_tenth_are_dropped(case, results, ddit):
  encode = ddit["text_encoder"].apply
  tokens = case["caption_ids"].copy()
  tokens[0] = case["null_ids"]
  np.testing.assert_array_equal(results["text_embeds"], encode(tokens))


def test_both_weightings_of_the_same_errors(results):
  sigma = results["sigma"][:, None, None, None]
  noisy, velocity = results["noisy_latents"], results["velocity_pred"]
  target = results["velocity_target"]
  clean = noisy - sigma * target
  by_release = np.square(noisy - sigma * velocity - clean).mean((1, 2, 3))
  by_paper = np.square(velocity - target).mean((1, 2, 3))
  for name, expected in {
    "per_sample_loss_reference": by_release,
    "loss_reference": by_release.mean(),
    "per_sample_velocity_mse": by_paper,
    "velocity_mse": by_paper.mean(),
  }.items():
    # Measured: 3e-7, relative.
    np.testing.assert_allclose(results[name], expected, rtol=3e-6)
