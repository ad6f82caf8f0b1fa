"""The network behind its text encoder is both, one after the other."""

import numpy as np

from tests.parity.golden_sets import CHANNELS, VOCABULARY, draws


def test_tokens_are_encoded_first(ddit):
  latents = draws(12)(2, 4, 6, CHANNELS)
  tokens = np.array([[3, 1, 1], [8, 5, 1]], np.int32)
  sigma = np.array([0.0, 0.7], np.float32)
  got = ddit.predict(latents, tokens, sigma)
  features = ddit["text_encoder"].apply(tokens)
  expected = ddit["network"].apply(latents, features, sigma)
  # Measured: 1e-6.
  np.testing.assert_allclose(got.velocity, expected.velocity, atol=1e-5)
  np.testing.assert_allclose(got.logits, expected.logits, atol=1e-5)
  assert got.logits.shape == (2, 3, VOCABULARY)
