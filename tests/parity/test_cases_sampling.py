"""Cases f, g and i: samplers against diffusers and the release's formulas."""

import diffusers
import numpy as np
import pytest
from parity import cases_sampling
from parity.checkpoints import Loaded
from parity.golden_set import GoldenSetError, open_set

from tests.parity.golden_sets import (
  CHANNELS,
  CONSTANTS,
  END_ID,
  MASK_ID,
  VOCABULARY,
  case_of,
  draws,
  golden_of,
)

NUM_IMAGE_STEPS = 3


@pytest.fixture(scope="module")
def image_case():
  latents = (1, CHANNELS, 4, 4)
  return case_of(
    "f_t2i",
    {
      "prompt_ids": np.array([[3, 4, 5, 1]], np.int32),
      "negative_ids": np.full((1, 4), END_ID, np.int32),
      "init_latents": draws(8)(*latents),
    },
    {
      "sigmas_3": (4,),
      "final_latents_3": latents,
      "latents_3_step1": latents,
      "latents_3_step2": latents,
      "train_timesteps_head": (4,),
      "train_sigmas_tail": (3,),
    },
  )


@pytest.fixture(scope="module")
def image_results(image_case, checkpoints):
  found = cases_sampling.text_to_image(golden_of(), image_case, checkpoints)
  return {name: np.asarray(array) for name, array in found.items()}


def test_the_grids_are_diffusers_own(image_results):
  scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=2.0)
  scheduler.set_timesteps(NUM_IMAGE_STEPS)
  # Measured: 1e-7.
  np.testing.assert_allclose(
    image_results["sigmas_3"], scheduler.sigmas, atol=1e-6
  )
  np.testing.assert_allclose(
    image_results["timesteps_3"], scheduler.timesteps, rtol=1e-6
  )
  training = diffusers.FlowMatchEulerDiscreteScheduler(shift=1.0)
  np.testing.assert_allclose(
    image_results["train_timesteps_head"], training.timesteps[:4], rtol=1e-6
  )
  np.testing.assert_allclose(
    image_results["train_sigmas_tail"], training.sigmas[-3:], rtol=1e-6
  )


def test_every_step_is_a_guided_euler_step(image_case, image_results, ddit):
  sigmas = image_results["sigmas_3"].astype(np.float64)
  latents = image_case["init_latents"].astype(np.float64)
  tokens = np.concatenate(
    [image_case["negative_ids"], image_case["prompt_ids"]]
  )
  for step in range(NUM_IMAGE_STEPS):
    pair = np.moveaxis(np.concatenate([latents, latents]), 1, -1)
    sigma = np.full(2, sigmas[step], np.float32)
    velocity = ddit.predict(pair.astype(np.float32), tokens, sigma).velocity
    null, prompt = np.moveaxis(np.asarray(velocity, np.float64), -1, 1)
    if step == 0:
      np.testing.assert_allclose(
        image_results["first_velocity"], [null, prompt], atol=1e-5
      )
    guided = null + CONSTANTS["cfg"] * (prompt - null)
    latents = latents + (sigmas[step + 1] - sigmas[step]) * guided
    is_last = step == NUM_IMAGE_STEPS - 1
    name = "final_latents_3" if is_last else f"latents_3_step{step + 1}"
    # Measured: 4e-6.
    np.testing.assert_allclose(image_results[name], latents, atol=1e-4)
  image = ddit["vae"].decode(np.moveaxis(latents.astype(np.float32), 1, -1))
  np.testing.assert_allclose(
    image_results["image_3"], np.moveaxis(image, -1, 1), atol=1e-4
  )


def test_a_checkpoint_without_scheduler_is_named(image_case, ddit):
  bare = Loaded(parts=ddit.parts, plain_folders={})

  class Only:
    def get(self, name):
      return bare

  with pytest.raises(GoldenSetError, match="has no scheduler folder"):
    cases_sampling.text_to_image(golden_of(), image_case, Only())


LENGTH, NUM_STEPS, EPSILON = 5, 4, 0.01
T, S = 0.6, 0.35


@pytest.fixture(scope="module")
def text_case():
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
def text_results(text_case, checkpoints):
  found = cases_sampling.text_sampling(golden_of(), text_case, checkpoints)
  return {name: np.asarray(array) for name, array in found.items()}


def release_p_x0(text_case, ddit, state):
  """SUBS probabilities: visible tokens are copied, no mask is drawn."""
  latents = np.moveaxis(text_case["image_latents"], 1, -1)
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


def test_one_step_is_the_release_step(text_case, text_results, ddit):
  state = text_case["xt"]
  p_x0 = release_p_x0(text_case, ddit, state)
  drawn, q = release_update(p_x0, state, text_case["uniform"], T, S)
  by_chance, q_ddpm = release_update(
    p_x0, state, text_case["uniform"], (1 - EPSILON) * T, (1 - EPSILON) * S
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
    np.testing.assert_allclose(text_results[name], expected, atol=2e-6)
  np.testing.assert_array_equal(text_results["x_next_cache"], drawn)
  np.testing.assert_array_equal(text_results["x_next_ddpm"], by_chance)
  np.testing.assert_array_equal(
    text_results["argmax_noise_removal"], p_x0.argmax(-1)
  )


def test_the_trajectory_is_the_release_trajectory(
  text_case, text_results, ddit
):
  state = np.where(
    text_case["run/prompt_mask"] == 1, text_case["run/prompt_ids"], MASK_ID
  )
  state = state.astype(np.int32)
  times = np.linspace(1, 1e-5, NUM_STEPS + 1)
  for step in range(NUM_STEPS):
    p_x0 = release_p_x0(text_case, ddit, state)
    uniform = text_case["run/uniform"][step]
    state, _ = release_update(
      p_x0, state, uniform, times[step], times[step + 1]
    )
    state = state.astype(np.int32)
    np.testing.assert_array_equal(text_results["run/states"][step], state)
  assert text_results["run/states"].shape == (NUM_STEPS, 1, LENGTH)
  final = release_p_x0(text_case, ddit, state).argmax(-1)
  np.testing.assert_array_equal(text_results["run/final"], final)
  assert MASK_ID not in final and final[0, 0] == 3 and final[0, 2] == 5


def test_velocities_and_samples_are_diffusers_own(golden_folder, checkpoints):
  golden = open_set(golden_folder)
  case = golden.load("i_sd3_original")
  results = cases_sampling.sd3_base(golden, case, checkpoints)
  assert results.keys() == set(case.outputs())
  both = {"sd3_folder", "sd3_single"}
  as_ddit = {f"D-DiT from {name}" for name in both}
  for name, readings in results.items():
    is_without = name.endswith("no_pooled")
    assert readings.keys() == (both | as_ddit if is_without else both)
    for got in readings.values():
      # Measured: 8e-6.
      np.testing.assert_allclose(got, case.arrays[name], atol=1e-4)


def test_the_pooled_vector_matters(golden_folder):
  arrays = open_set(golden_folder).load("i_sd3_original").arrays
  difference = arrays["0/velocity"] - arrays["0/velocity_no_pooled"]
  assert np.abs(difference).max() > 0.01
