"""Pixels to latents in [-1, 1] and back."""

import jax.numpy as jnp
import numpy as np

from ddit_jax.data.pixel_codec import PixelCodec


def test_the_range_is_minus_one_to_one():
  pixels = np.array([0, 255], np.uint8).reshape(1, 1, 2, 1)
  latents = PixelCodec().encode(pixels)
  assert latents.dtype == jnp.float32
  assert latents.ravel().tolist() == [-1.0, 1.0]


def test_every_pixel_value_comes_back():
  pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
  codec = PixelCodec()
  back = codec.decode(codec.encode(pixels))
  assert back.dtype == jnp.uint8
  np.testing.assert_array_equal(np.asarray(back), pixels)


def test_decoding_rounds_to_the_nearest_and_clips():
  # 127.5 * (v + 1) by hand: 0.2 -> 153.0, 0.203 -> 153.4, 0.205 -> 153.6.
  latents = jnp.array([-3.0, -1.001, 0.2, 0.203, 0.205, 1.001, 9.0])
  pixels = PixelCodec().decode(latents.reshape(1, 1, 7, 1)).ravel()
  assert pixels.tolist() == [0, 0, 153, 153, 154, 255, 255]


def test_half_precision_latents_decode_in_full_precision():
  latents = jnp.full((1, 1, 1, 1), 0.5, jnp.bfloat16)
  assert PixelCodec().decode(latents).ravel().tolist() == [191]
