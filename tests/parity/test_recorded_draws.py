"""Recorded draws in the losses' own structures."""

import numpy as np
from parity.recorded_draws import (
  ImageDraws,
  TextDraws,
  release_diffusion,
  release_loss,
)

from tests.parity.golden_sets import MASK_ID, draws, golden_of


def test_the_release_options_and_the_manifest_constants():
  loss = release_loss(golden_of())
  assert loss.flow_matching.loss_weighting == "sigma_squared"
  assert loss.flow_matching.sigma_grid == "thousand"
  assert loss.text_weight == 0.3 and loss.condition_dropout == 0.1
  assert loss.masked_diffusion == release_diffusion(golden_of())
  assert loss.masked_diffusion.noise_schedule == "log_linear"
  assert loss.masked_diffusion.epsilon == 0.01


def test_images_as_the_loss_takes_them():
  draw = draws(11)
  recorded = ImageDraws(
    latents=draw(2, 3, 4, 5),
    noise=draw(2, 3, 4, 5),
    normals=np.zeros(2, np.float32),
    uniforms=np.array([0.099, 0.1], np.float32),
    tokens=np.array([[5, 6], [7, 8]], np.int32),
    null_tokens=np.array([[1, 1]], np.int32),
  )
  images = recorded.corrupted(release_loss(golden_of()))
  # sigmoid(0) = 1/2, which is on the grid.
  np.testing.assert_array_equal(images.sigma, [0.5, 0.5])
  np.testing.assert_array_equal(images.text, [[1, 1], [7, 8]])
  np.testing.assert_array_equal(images.weight, [0.125, 0.125])
  middle = (recorded.latents + recorded.noise) / 2
  np.testing.assert_allclose(
    images.latents, middle.transpose(0, 2, 3, 1), atol=1e-6
  )
  np.testing.assert_allclose(
    images.velocity,
    (recorded.noise - recorded.latents).transpose(0, 2, 3, 1),
    atol=1e-6,
  )


def test_texts_as_the_loss_takes_them():
  diffusion = release_diffusion(golden_of())
  recorded = TextDraws(
    latents=np.zeros((2, 3, 4, 5), np.float32),
    tokens=np.array([[3, 4, 5], [6, 7, 1]], np.int32),
    noisy_tokens=np.array([[8, 4, 8], [6, 8, 1]], np.int32),
    t=np.array([0.5, 0.25], np.float32),
  )
  texts = recorded.corrupted(diffusion, MASK_ID)
  assert texts.latents.shape == (2, 4, 5, 3)
  np.testing.assert_array_equal(texts.tokens, recorded.noisy_tokens)
  np.testing.assert_array_equal(texts.clean_tokens, recorded.tokens)
  np.testing.assert_array_equal(texts.is_masked, [[1, 0, 1], [0, 1, 0]])
  np.testing.assert_allclose(texts.weight, [2 / 6, 4 / 6], rtol=1e-6)


def test_questions_stay_visible():
  diffusion = release_diffusion(golden_of())
  recorded = TextDraws(
    latents=np.zeros((1, 3, 4, 5), np.float32),
    tokens=np.array([[3, 4, 5]], np.int32),
    noisy_tokens=np.array([[8, 4, 8]], np.int32),
    t=np.array([0.5], np.float32),
    loss_mask=np.array([[False, True, True]]),
  )
  texts = recorded.corrupted(
    diffusion, MASK_ID, loss_normalization="target_positions"
  )
  np.testing.assert_array_equal(texts.tokens, [[3, 4, 8]])
  np.testing.assert_array_equal(texts.is_masked, [[0, 0, 1]])
  np.testing.assert_allclose(texts.weight, [2 / 2], rtol=1e-6)
