"""GPT-2's cache, its limits; tests/conversion compares it with transformers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddit_jax.models.gpt2 import GPT2, GPT2Config, empty_cache, gpt2

TINY = GPT2Config(
  depth=3, width=24, num_heads=3, mlp_width=40, vocab_size=50, max_length=12
)


@pytest.fixture(scope="module")
def variables():
  return jax.jit(gpt2(TINY).init)(jax.random.key(0))


def test_a_text_in_parts_is_computed_as_a_whole(variables):
  """Parts of 4, 1 and 3 tokens behind each other, through the cache."""
  ids = jax.random.randint(jax.random.key(1), (2, 8), 0, 50)
  model = gpt2(TINY)
  whole = jax.jit(model.apply)(variables, ids)

  @jax.jit
  def in_parts(ids):
    cache, found = empty_cache(TINY, batch=2, length=9), []
    for start, stop in ((0, 4), (4, 5), (5, 8)):
      embedded = model.apply(variables, ids[:, start:stop], method="embed")
      hidden, cache = model.apply(
        variables, embedded, cache, start, method="hidden"
      )
      found.append(model.apply(variables, hidden, method="logits"))
    return jnp.concatenate(found, axis=1)

  # Measured 1.2e-7; logits have a magnitude of 0.3.
  np.testing.assert_allclose(in_parts(ids), whole, atol=1e-5)


def test_a_token_sees_none_after_it(variables):
  ids = jax.random.randint(jax.random.key(1), (1, 8), 0, 50)
  other = ids.at[0, 5].add(1)
  apply = jax.jit(gpt2(TINY).apply)
  first, second = apply(variables, ids), apply(variables, other)
  np.testing.assert_array_equal(first[:, :5], second[:, :5])
  assert (first[:, 5:] != second[:, 5:]).any(axis=-1).all()


@pytest.mark.slow
def test_a_recomputed_backward_pass_has_the_same_gradient(variables):
  ids = jax.random.randint(jax.random.key(1), (1, 6), 0, 50)

  def gradient(module):
    def total(params):
      return jnp.square(module.apply({"params": params}, ids)).sum()

    return jax.jit(jax.grad(total))(variables["params"])

  plain, again = (gradient(GPT2(TINY, has_remat=r)) for r in (False, True))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
    plain,
    again,
  )


def test_more_tokens_than_positions_are_refused():
  model = gpt2(TINY)
  with pytest.raises(ValueError, match="13 tokens but GPT-2 has 12 positions"):
    jax.eval_shape(
      model.apply, model.abstract_variables(), jnp.zeros((1, 13), jnp.int32)
    )
