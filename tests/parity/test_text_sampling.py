"""Case g: the release's formulas written out in numpy."""

import numpy as np
import pytest
from parity import text_sampling

from tests.parity.golden_sets import (
  CHANNELS,
  MASK_ID,
  VOCABULARY,
  case_of,
  draws,
  golden_of,
)

LENGTH, NUM_STEPS, EPSILON = 5, 4, 0.01
T, S = 0.6, 0.35


@pytest.fixture(scope="module")
def case():
  uniform = np.random.default_rng(9).uniform
  shape = (1, LENGTH, VOCABULARY)
  return case_of(
    "g_text_sampling",
    {
      "xt": np.array([[3, MASK_ID, 5, MASK_ID, MASK_ID]], np.int32),
      "image_latents": draws(9)(1, CHANNELS, 4, 4),
      "t": np.float32(T),
      "s": np.float32(S),
      "uniform": uniform(size=shape).astype(np.float32),
      "run/uniform": uniform(size=(NUM_STEPS, *shape)).astype(np.float32),
      "run/prompt_ids": np.array([[3, 4, 5, 6, 7]], np.int32),
      "run/prompt_mask": np.array([[1, 0, 1, 0, 0]], np.int32),
    },
    {},
  )


@pytest.fixture(scope="module")
def results(case, checkpoints):
  found = text_sampling.outputs(golden_of(), case, checkpoints)
  return {name: np.asarray(array) for name, array in found.items()}


def release_p_x0(case, ddit, state):
  """SUBS probabilities: visible tokens are copied, no mask is drawn."""
  latents = np.moveaxis(case["image_latents"], 1, -1)
  logits = ddit.predict(latents, state, np.zeros(1, np.float32)).logits
  weights = np.exp(np.asarray(logits, np.float64))
  weights[..., MASK_ID] = 0
  p_x0 = weights / weights.sum(-1, keepdims=True)
  is_visible = state != MASK_ID
  p_x0[is_visible] = np.eye(VOCABULARY)[state[is_visible]]
  return p_x0


def release_update(p_x0, state, uniform, t, s):
  q = p_x0 * (t - s)
  q[..., MASK_ID] = s
  drawn = (q / (1e-10 - np.log(uniform + 1e-10))).argmax(-1)
  return np.where(state == MASK_ID, drawn, state), q


def test_one_step_is_the_release_step(case, results, ddit):
  state = case["xt"]
  p_x0 = release_p_x0(case, ddit, state)
  drawn, q = release_update(p_x0, state, case["uniform"], T, S)
  by_chance, q_ddpm = release_update(
    p_x0, state, case["uniform"], (1 - EPSILON) * T, (1 - EPSILON) * S
  )
  # Measured: 2e-7.
  for name, expected in {
    "p_x0": p_x0,
    "q_xs_cache": q,
    "q_xs_ddpm": q_ddpm,
    "q_xs_cache_normalised": np.where(
      (state == MASK_ID)[..., None], q / T, p_x0
    ),
  }.items():
    np.testing.assert_allclose(results[name], expected, atol=2e-6)
  np.testing.assert_array_equal(results["x_next_cache"], drawn)
  np.testing.assert_array_equal(results["x_next_ddpm"], by_chance)
  np.testing.assert_array_equal(
    results["argmax_noise_removal"], p_x0.argmax(-1)
  )


def test_the_trajectory_is_the_release_trajectory(case, results, ddit):
  state = np.where(
    case["run/prompt_mask"] == 1, case["run/prompt_ids"], MASK_ID
  )
  state = state.astype(np.int32)
  times = np.linspace(1, 1e-5, NUM_STEPS + 1)
  for step in range(NUM_STEPS):
    p_x0 = release_p_x0(case, ddit, state)
    uniform = case["run/uniform"][step]
    state, _ = release_update(
      p_x0, state, uniform, times[step], times[step + 1]
    )
    state = state.astype(np.int32)
    np.testing.assert_array_equal(results["run/states"][step], state)
  assert results["run/states"].shape == (NUM_STEPS, 1, LENGTH)
  final = release_p_x0(case, ddit, state).argmax(-1)
  np.testing.assert_array_equal(results["run/final"], final)
  assert MASK_ID not in final and final[0, 0] == 3 and final[0, 2] == 5
