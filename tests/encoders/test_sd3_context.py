"""The joined context against `diffusers`' StableDiffusion3Pipeline."""

import types

import diffusers
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from ddit_jax.encoders.clip import (
  CLIPFeatures,
  CLIPTextConfig,
  clip_text_encoder,
  join_context,
)
from ddit_jax.encoders.t5 import T5Config, t5_encoder
from tests.encoders import torch_weights
from tests.encoders.test_clip import torch_clip
from tests.encoders.test_t5 import torch_t5

CLIP_L, CLIP_G = (
  CLIPTextConfig(
    depth=2,
    width=width,
    num_heads=2,
    mlp_width=20,
    activation=activation,
    projection_dim=width,
    vocab_size=30,
    max_length=6,
  )
  for width, activation in ((8, "quick_gelu"), (12, "gelu"))
)
T5 = T5Config(
  depth=2, width=28, num_heads=2, head_dim=8, mlp_width=20, vocab_size=40
)
# One text's ids for CLIP-L (padded with its end), CLIP-G (with 0) and T5.
IDS = {
  "l": np.array([[1, 5, 7, 29, 29, 29], [1, 3, 3, 3, 3, 29]]),
  "g": np.array([[1, 5, 7, 29, 0, 0], [1, 3, 3, 3, 3, 29]]),
  "t5": np.array([[9, 8, 1, 0, 0, 0, 0], [4, 4, 4, 4, 4, 4, 1]]),
}


class FixedTokenizer:
  """Stands in for a tokenizer: the ids are given, whatever the text."""

  def __init__(self, ids):
    self.ids, self.model_max_length = torch.from_numpy(ids), ids.shape[1]

  def __call__(self, prompt, **settings):
    return types.SimpleNamespace(input_ids=self.ids)


def test_context_equals_diffusers_pipeline():
  clip_l, clip_g, t5 = torch_clip(CLIP_L), torch_clip(CLIP_G), torch_t5(T5)
  pipeline = diffusers.StableDiffusion3Pipeline(
    transformer=None,
    scheduler=None,
    vae=None,
    text_encoder=clip_l,
    tokenizer=FixedTokenizer(IDS["l"]),
    text_encoder_2=clip_g,
    tokenizer_2=FixedTokenizer(IDS["g"]),
    text_encoder_3=t5,
    tokenizer_3=FixedTokenizer(IDS["t5"]),
  )
  with torch.no_grad():
    want_context, _, want_pooled, _ = pipeline.encode_prompt(
      ["one", "two"], None, None, do_classifier_free_guidance=False
    )
  features = [
    clip_text_encoder(config).apply(
      {"params": torch_weights.clip_params(torch_weights.weights(m), config)},
      jnp.asarray(IDS[name]),
    )
    for config, m, name in ((CLIP_L, clip_l, "l"), (CLIP_G, clip_g, "g"))
  ]
  t5_params = torch_weights.t5_params(torch_weights.weights(t5), T5)
  t5_features = t5_encoder(T5).apply(
    {"params": t5_params}, jnp.asarray(IDS["t5"])
  )
  context, pooled = join_context(*features, t5_features)
  assert context.shape == (2, 6 + 7, 28) and pooled.shape == (2, 8 + 12)
  # Measured 5e-7.
  error = torch_weights.largest_error
  assert error(context, want_context.numpy()) < 5e-6
  assert error(pooled, want_pooled.numpy()) < 5e-6
  assert (np.asarray(context[:, :6, 20:]) == 0).all()


def clip_zeros(batch, length, width):
  return CLIPFeatures(
    penultimate=jnp.zeros((batch, length, width)),
    pooled=jnp.zeros((batch, width)),
  )


@pytest.mark.parametrize(
  "length, t5_shape, message",
  [
    (5, (1, 9, 28), "do not belong together"),
    (6, (2, 9, 28), "do not belong together"),
    (6, (1, 9, 16), "20 together, are wider than T5's 16"),
  ],
)
def test_features_that_do_not_fit_are_refused(
  length, t5_shape, message, unchecked_shapes
):
  with pytest.raises(ValueError, match=message):
    join_context(
      clip_zeros(1, 6, 8), clip_zeros(1, length, 12), jnp.zeros(t5_shape)
    )
