"""Both heads by hand; fresh heads say nothing."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ddit_jax.models.mmdit import ImageHead, TextHead
from tests.models import oracles

DRAW = np.random.default_rng(0)
TOKENS = jnp.float32(DRAW.normal(size=(2, 3, 8)))
VECTOR = jnp.float32(DRAW.normal(size=(2, 8)))


def fresh(head, *inputs):
  return nn.unbox(head.init(jax.random.key(0), *inputs))["params"]


def test_the_image_head_modulates_by_scale_then_shift_rows():
  head = ImageHead(5)
  params = oracles.randomised(fresh(head, TOKENS, VECTOR), seed=1)
  got = head.apply({"params": params}, TOKENS, VECTOR)
  p = oracles.in_float64(params)
  scale, shift = oracles.modulation(p["modulation"], np.float64(VECTOR))
  normed = oracles.layer_norm(np.float64(TOKENS))
  want = np.zeros((2, 3, 5))
  for b, i in np.ndindex(2, 3):
    modulated = normed[b, i] * (1 + scale[b]) + shift[b]
    want[b, i] = modulated @ p["project"]["kernel"] + p["project"]["bias"]
  # Measured 9e-7 at values up to 4.7.
  np.testing.assert_allclose(got, want, atol=5e-6)


def test_the_text_head_is_a_norm_and_a_linear_map():
  head = TextHead(11)
  params = oracles.randomised(fresh(head, TOKENS), seed=1)
  assert sorted(params) == ["project"]
  got = head.apply({"params": params}, TOKENS)
  p = oracles.in_float64(params)["project"]
  want = oracles.layer_norm(np.float64(TOKENS)) @ p["kernel"] + p["bias"]
  # Measured 1.3e-7.
  np.testing.assert_allclose(got, want, atol=5e-6)


def test_fresh_heads_return_zeros():
  image, text = ImageHead(5), TextHead(11)
  velocity = image.apply(
    {"params": fresh(image, TOKENS, VECTOR)}, TOKENS, VECTOR
  )
  logits = text.apply({"params": fresh(text, TOKENS)}, TOKENS)
  assert not np.any(velocity)
  assert not np.any(logits)
