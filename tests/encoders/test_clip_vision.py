"""CLIP's image encoder; tests/conversion compares its features."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transformers

from ddit_jax.encoders.clip_vision import (
  CLIP_VISION_SIZES,
  clip_vision_encoder,
  normed,
)


def test_colours_are_shifted_and_scaled_as_transformers_does():
  pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
  processor = transformers.CLIPImageProcessor(
    do_resize=False, do_center_crop=False
  )
  want = processor(pixels, return_tensors="np")["pixel_values"]
  got = normed(jnp.asarray(pixels[None]) / 255.0)
  # Measured 5e-7.
  np.testing.assert_allclose(got, want.transpose(0, 2, 3, 1), atol=2e-6)


def test_images_of_another_size_are_refused():
  encoder = clip_vision_encoder(CLIP_VISION_SIZES["L"])
  pixels = jnp.zeros((1, 256, 256, 3))
  with pytest.raises(ValueError, match="224 x 224 pixels, got 256 x 256"):
    jax.eval_shape(encoder.apply, encoder.abstract_variables(), pixels)


def test_settings_that_cannot_work_are_refused():
  config = CLIP_VISION_SIZES["L"]
  with pytest.raises(ValueError, match="image_size 224 is not divisible by"):
    dataclasses.replace(config, patch_size=15)
  with pytest.raises(ValueError, match="activation must be one of"):
    dataclasses.replace(config, activation="relu")
