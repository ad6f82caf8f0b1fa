"""The release's steps of the text sampler, by an identity."""

import jax.numpy as jnp
import numpy as np
from parity.release_text_sampler import reveal_probability


def test_revealing_in_two_steps_is_revealing_in_one():
  """Staying masked from t to s to r has the chance r / t of t to r."""
  t, s, r = map(jnp.float32, (0.9, 0.6, 0.2))
  stay = (1 - reveal_probability(t, s)) * (1 - reveal_probability(s, r))
  np.testing.assert_allclose(stay, 1 - reveal_probability(t, r), rtol=1e-6)
