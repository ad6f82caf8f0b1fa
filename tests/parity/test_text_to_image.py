"""Case f: diffusers' schedule, and Euler steps written out."""

import diffusers
import numpy as np
import pytest
from parity import text_to_image
from parity.checkpoints import Loaded
from parity.golden_set import GoldenSetError

from tests.parity.golden_sets import (
  CHANNELS,
  CONSTANTS,
  END_ID,
  case_of,
  draws,
  golden_of,
)

NUM_STEPS = 3


@pytest.fixture(scope="module")
def case():
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
def results(case, checkpoints):
  found = text_to_image.outputs(golden_of(), case, checkpoints)
  return {name: np.asarray(array) for name, array in found.items()}


def test_the_grids_are_diffusers_own(results):
  scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=2.0)
  scheduler.set_timesteps(NUM_STEPS)
  # Measured: 1e-7.
  np.testing.assert_allclose(results["sigmas_3"], scheduler.sigmas, atol=1e-6)
  np.testing.assert_allclose(
    results["timesteps_3"], scheduler.timesteps, rtol=1e-6
  )
  training = diffusers.FlowMatchEulerDiscreteScheduler(shift=1.0)
  np.testing.assert_allclose(
    results["train_timesteps_head"], training.timesteps[:4], rtol=1e-6
  )
  np.testing.assert_allclose(
    results["train_sigmas_tail"], training.sigmas[-3:], rtol=1e-6
  )


def test_every_step_is_a_guided_euler_step(case, results, ddit):
  sigmas = results["sigmas_3"].astype(np.float64)
  latents = case["init_latents"].astype(np.float64)
  tokens = np.concatenate([case["negative_ids"], case["prompt_ids"]])
  for step in range(NUM_STEPS):
    pair = np.moveaxis(np.concatenate([latents, latents]), 1, -1)
    sigma = np.full(2, sigmas[step], np.float32)
    velocity = ddit.predict(pair.astype(np.float32), tokens, sigma).velocity
    null, prompt = np.moveaxis(np.asarray(velocity, np.float64), -1, 1)
    if step == 0:
      np.testing.assert_allclose(
        results["first_velocity"], [null, prompt], atol=1e-5
      )
    guided = null + CONSTANTS["cfg"] * (prompt - null)
    latents = latents + (sigmas[step + 1] - sigmas[step]) * guided
    is_last = step == NUM_STEPS - 1
    name = "final_latents_3" if is_last else f"latents_3_step{step + 1}"
    # Measured: 4e-6.
    np.testing.assert_allclose(results[name], latents, atol=1e-4)
  image = ddit["vae"].decode(np.moveaxis(latents.astype(np.float32), 1, -1))
  np.testing.assert_allclose(
    results["image_3"], np.moveaxis(image, -1, 1), atol=1e-4
  )


def test_a_checkpoint_without_scheduler_is_named(case, ddit):
  bare = Loaded(parts=ddit.parts, plain_folders={})

  class Only:
    def get(self, name):
      return bare

  with pytest.raises(GoldenSetError, match="has no scheduler folder"):
    text_to_image.outputs(golden_of(), case, Only())
