"""Drawn images of a network that is none."""

import types

import jax
import jax.numpy as jnp
import numpy as np

from ddit_jax.batch import TextToImageBatch
from ddit_jax.diffusion.flow_matching import FlowMatching
from ddit_jax.post_training.config import ImagePolicy
from ddit_jax.post_training.image_draws import ImageDraws

STATE = types.SimpleNamespace(ema=None, variables=lambda params: params)


class Still:
  """Images stay noise; its text encoder counts what it encodes."""

  def __init__(self):
    self.num_encoded = []

  def condition(self, variables, text, is_text_clean=False):
    del variables, is_text_clean
    if jnp.issubdtype(text.dtype, jnp.integer):
      self.num_encoded.append(len(text))
      text = jnp.repeat(text[..., None], 4, axis=-1).astype(jnp.float32)
    return text

  def encode(self, variables, images):
    del variables
    return images.astype(jnp.float32)

  def decode(self, variables, latents):
    del variables
    return latents.astype(jnp.uint8)

  def predict(self, variables, latents, condition, sigma, **options):
    del variables, sigma, options
    assert condition.shape == (len(latents), 3, 4)
    return types.SimpleNamespace(velocity=jnp.zeros_like(latents))


def test_a_caption_is_encoded_once_for_all_its_images():
  model, null = Still(), np.zeros(3, np.int32)
  draws = ImageDraws(
    model=model,
    policy=ImagePolicy(),
    flow_matching=FlowMatching(),
    null_tokens=null,
  )
  batch = TextToImageBatch(
    images=jnp.zeros((2, 2, 2, 3), jnp.uint8),
    tokens=jnp.arange(6).reshape(2, 3),
  )
  (latents, text), shown = draws.draw(
    STATE, batch, jax.random.key(0), jnp.int32(0), group_size=4
  )
  assert len(latents) == len(shown.images) == 8
  # Of each caption, and of the empty one.
  assert sorted(model.num_encoded) == [1, 2]
  np.testing.assert_array_equal(text[..., 0], shown.prompts)
  np.testing.assert_array_equal(shown.prompts[:4], np.tile([0, 1, 2], (4, 1)))
