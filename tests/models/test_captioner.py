"""The prefix captioner: what its logits see, and its cache."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddit_jax.models.captioner import Captioner
from ddit_jax.models.gpt2 import GPT2Config, empty_cache
from ddit_jax.models.module import PureModule

DECODER = GPT2Config(
  depth=2, width=16, num_heads=2, mlp_width=32, vocab_size=11, max_length=20
)
BATCH, NUM_IMAGE, LENGTH, WIDTH = 2, 5, 4, 8


@pytest.fixture(scope="module")
def captioner():
  """(module, variables, features, tokens)."""
  module = PureModule(
    module=Captioner(DECODER),
    example_inputs=(
      jax.ShapeDtypeStruct((1, 1), jnp.int32),
      jax.ShapeDtypeStruct((1, 1, WIDTH), jnp.float32),
    ),
  )
  keys = jax.random.split(jax.random.key(0), 3)
  features = jax.random.normal(keys[1], (BATCH, NUM_IMAGE, WIDTH))
  tokens = jax.random.randint(keys[2], (BATCH, LENGTH), 0, 11)
  return module, jax.jit(module.init)(keys[0]), features, tokens


def test_each_token_is_predicted_from_the_image_and_the_tokens_before(
  captioner,
):
  module, variables, features, tokens = captioner
  apply = jax.jit(module.apply)
  logits = apply(variables, tokens, features)
  assert logits.shape == (BATCH, LENGTH, 11)
  changed = apply(
    variables, tokens.at[:, 2].set((tokens[:, 2] + 1) % 11), features
  )
  is_same = (changed == logits).all(axis=(0, 2))
  assert is_same.tolist() == [True, True, True, False]
  other = apply(variables, tokens, features.at[:, 0].add(1.0))
  assert (other != logits).any(axis=2).all()


def test_token_by_token_gives_the_same_logits(captioner):
  module, variables, features, tokens = captioner
  whole = jax.jit(module.apply)(variables, tokens, features)

  @jax.jit
  def one_by_one(tokens):
    cache = empty_cache(DECODER, batch=BATCH, length=NUM_IMAGE + LENGTH)
    logits, cache = module.apply(variables, cache, features, method="start")
    found = [logits]
    for at in range(LENGTH - 1):
      logits, cache = module.apply(
        variables, cache, tokens[:, at], NUM_IMAGE + at, method="next"
      )
      found.append(logits)
    return jnp.stack(found, axis=1)

  # Measured 3e-7.
  np.testing.assert_allclose(one_by_one(tokens), whole, atol=1e-5)
