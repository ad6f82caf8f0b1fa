"""Token and position rows are added and scaled to unit variance."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddit_jax.models.embeddings import TokenEmbedding


def test_a_token_is_its_row_plus_its_position_times_root_of_half_width():
  draw = np.random.default_rng(0)
  tokens = draw.normal(size=(7, 4)).astype("f4")
  positions = draw.normal(size=(5, 4)).astype("f4")
  ids = jnp.array([[6, 0, 3], [3, 3, 3]])
  got = TokenEmbedding(7, 5, 4).apply(
    {"params": {"tokens": tokens, "positions": positions}}, ids
  )
  want = np.zeros((2, 3, 4))
  for b, i in np.ndindex(2, 3):
    want[b, i] = (tokens[ids[b, i]] + positions[i]) * np.sqrt(4 / 2)
  # Measured 1.5e-7.
  np.testing.assert_allclose(got, want, atol=3e-6)


def test_fresh_tokens_have_unit_variance():
  module = TokenEmbedding(200, 100, 64)
  ids = jnp.arange(200).reshape(2, 100)
  params = nn.unbox(module.init(jax.random.key(0), ids))
  # 12,800 sums share 6,400 position draws: standard error about 1.5 %.
  variance = float(jnp.var(module.apply(params, ids)))
  assert variance == pytest.approx(1, rel=0.06)


def test_a_text_longer_than_the_table_is_refused():
  module = TokenEmbedding(7, 5, 4)
  with pytest.raises(ValueError, match=r"6 tokens .* max_text_length 5"):
    module.init(jax.random.key(0), jnp.zeros((1, 6), jnp.int32))


def test_half_precision_rounds_only_the_result():
  module = TokenEmbedding(7, 5, 8)
  ids = jnp.array([[1, 2]])
  params = nn.unbox(module.init(jax.random.key(0), ids))
  half = TokenEmbedding(7, 5, 8, jnp.bfloat16).apply(params, ids)
  full = module.apply(params, ids)
  assert half.dtype == jnp.bfloat16
  assert (half == full.astype(jnp.bfloat16)).all()
