"""Case d: the loss by numpy, from the logits alone."""

import numpy as np
import pytest
from parity import text_loss

from tests.parity.golden_sets import (
  CHANNELS,
  MASK_ID,
  VOCABULARY,
  case_of,
  draws,
  golden_of,
)

EPSILON = 0.01
TIMES = np.array([0.25, 0.9], np.float32)
CLEAN = np.array([[3, 4, 5, 1], [6, 7, 1, 1]], np.int32)
IS_MASKED = np.array([[1, 0, 1, 0], [1, 1, 0, 1]], bool)
IS_TARGET = np.array([[0, 1, 1, 1], [0, 1, 1, 1]], np.int32)


@pytest.fixture(scope="module")
def results(checkpoints):
  case = case_of(
    "d_text_loss",
    {
      "x0": CLEAN,
      "xt": np.where(IS_MASKED, MASK_ID, CLEAN).astype(np.int32),
      "t": TIMES,
      "label_mask": IS_TARGET,
      "image_latents": draws(6)(2, CHANNELS, 4, 4),
    },
    {},
  )
  found = text_loss.outputs(golden_of(), case, checkpoints)
  return {name: np.asarray(array, np.float64) for name, array in found.items()}


def token_losses(logits, is_masked):
  """-log p(clean) / t at masked positions, slowly."""
  losses = np.zeros(CLEAN.shape)
  for row, column in np.argwhere(is_masked):
    others = np.delete(np.exp(logits[row, column]), MASK_ID)
    chosen = logits[row, column, CLEAN[row, column]]
    losses[row, column] = (np.log(others.sum()) - chosen) / TIMES[row]
  return losses


def test_the_schedule_is_the_log_linear_one(results):
  t = TIMES.astype(np.float64)
  sigma = -np.log1p(-(1 - EPSILON) * t)
  slope = (1 - EPSILON) / (1 - (1 - EPSILON) * t)
  for name, expected in {
    "sigma": sigma,
    "dsigma": slope,
    "weight": slope / np.expm1(sigma),
    "move_chance": 1 - np.exp(-sigma),
  }.items():
    # Measured: 1e-7, relative.
    np.testing.assert_allclose(results[name], expected, rtol=1e-6)


def test_the_loss_of_whole_texts(results):
  losses = token_losses(results["logits"], IS_MASKED)
  # Measured: 3e-7, relative.
  np.testing.assert_allclose(results["token_loss"], losses, rtol=3e-6)
  np.testing.assert_allclose(
    results["log_p_x0"], -losses * TIMES[:, None], rtol=3e-6
  )
  assert results["loss"] == pytest.approx(losses.sum() / 8, rel=3e-6)


def test_instruction_tuning_keeps_the_question(results):
  is_masked = IS_MASKED & (IS_TARGET == 1)
  tokens = np.where(is_masked, MASK_ID, CLEAN)
  np.testing.assert_array_equal(results["sft/xt"], tokens)
  # Its logits are of other tokens: the sums must agree with each other.
  losses = results["sft/token_loss"]
  assert ((losses > 0) == is_masked).all()
  assert results["sft/loss"] == pytest.approx(losses.sum() / 8, rel=3e-6)
  assert results["sft/loss_mean_over_label_tokens"] == pytest.approx(
    losses.sum() / 6, rel=3e-6
  )


def test_slices_of_the_real_vocabulary_follow_their_names(ddit):
  inputs = {
    "rv/x0": CLEAN,
    "rv/xt": np.where(IS_MASKED, MASK_ID, CLEAN).astype(np.int32),
    "rv/t": TIMES,
    "rv/image_latents": draws(6)(2, CHANNELS, 4, 4),
  }
  shapes = {
    "rv/logits_every_4th": (2, 4, 3),
    "rv/logits_every_1th": (2, 4, VOCABULARY),
    "rv/logits_last2": (2, 4, 2),
  }
  case = case_of("d_text_loss", inputs, shapes)

  class Only:
    def get(self, name):
      assert name == "ddit_realvocab"
      return ddit

  results = text_loss.outputs(golden_of(), case, Only())
  results = {name: np.asarray(a, np.float64) for name, a in results.items()}
  logits = results["rv/logits_every_1th"]
  np.testing.assert_array_equal(
    results["rv/logits_every_4th"], logits[..., ::4]
  )
  np.testing.assert_array_equal(results["rv/logits_last2"], logits[..., -2:])
  np.testing.assert_array_equal(results["rv/argmax"], logits.argmax(-1))
  np.testing.assert_allclose(
    results["rv/logsumexp"], np.log(np.exp(logits).sum(-1)), rtol=3e-6
  )
  losses = token_losses(logits, IS_MASKED)
  np.testing.assert_allclose(results["rv/token_loss"], losses, rtol=3e-6)
  assert results["rv/loss"] == pytest.approx(losses.sum() / 8, rel=3e-6)
