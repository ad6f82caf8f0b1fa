"""The text sampler's law, and that it never touches what is fixed."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ddit_jax.diffusion.masked_diffusion import (
  log_probabilities,
  reveal_probability,
)
from ddit_jax.prng import row_keys
from ddit_jax.sampling.text_sampler import (
  TextSampling,
  ancestral_update,
  infill,
)

VOCAB, LENGTH, MASK = 7, 6, 6
LEAST_P = 1e-3


def keys_of(seed: int, rows: int) -> jax.Array:
  return row_keys(jax.random.key(seed), jnp.arange(rows))


def logits_of(batch: int) -> jax.Array:
  """Known logits, the same for every row, different at every position."""
  draw = np.random.default_rng(0).normal(size=(LENGTH, VOCAB)) * 1.5
  return jnp.broadcast_to(jnp.asarray(draw, jnp.float32), (batch, *draw.shape))


def probabilities() -> np.ndarray:
  """Softmax without the mask, in float64 by hand."""
  logits = np.asarray(logits_of(1)[0], np.float64)[:, :MASK]
  weights = np.exp(logits - logits.max(-1, keepdims=True))
  return weights / weights.sum(-1, keepdims=True)


def test_reveals_with_the_posteriors_chance_chi_square():
  rows, t, s = 4000, 0.8, 0.5
  state = jnp.full((rows, LENGTH), MASK)
  log_p = log_probabilities(logits_of(rows), MASK)
  chance = reveal_probability(jnp.float32(t), jnp.float32(s))
  new = ancestral_update(
    state,
    log_p,
    jnp.int32(0),
    chance,
    keys=keys_of(3, rows),
    mask_id=MASK,
    temperature=1.0,
  )
  counts = np.bincount((np.asarray(new) != MASK).sum(-1), minlength=LENGTH + 1)
  law = stats.binom(LENGTH, (t - s) / t).pmf(np.arange(LENGTH + 1)) * rows
  # The two rarest counts are pooled: chi-square wants five expected each.
  counts = np.append(counts[:-2], counts[-2:].sum())
  law = np.append(law[:-2], law[-2:].sum())
  assert stats.chisquare(counts, law).pvalue > LEAST_P


@pytest.mark.parametrize("num_steps", [1, 4])
def test_drawn_tokens_follow_the_prediction_chi_square(num_steps):
  rows = 4000
  # The last reveal takes the argmax, so only what came before is compared.
  sampling = TextSampling(num_steps=num_steps + 1)
  _, trace = infill(
    lambda state: logits_of(rows),
    jnp.zeros((rows, LENGTH), jnp.int32),
    jnp.zeros((rows, LENGTH), bool),
    keys_of(1, rows),
    mask_id=MASK,
    sampling=sampling,
  )
  before_last = np.asarray(trace[num_steps - 1])
  for position, law in enumerate(probabilities()):
    seen = before_last[:, position]
    seen = seen[seen != MASK]
    counts = np.bincount(seen, minlength=MASK)
    pvalue = stats.chisquare(counts, law * len(seen)).pvalue
    assert pvalue > LEAST_P / LENGTH, position


def test_a_whole_ancestral_run_leaves_the_analytic_share_masked():
  rows, steps = 3000, 5
  _, trace = infill(
    lambda state: logits_of(rows),
    jnp.zeros((rows, LENGTH), jnp.int32),
    jnp.zeros((rows, LENGTH), bool),
    keys_of(5, rows),
    mask_id=MASK,
    sampling=TextSampling(num_steps=steps),
  )
  times = np.linspace(1.0, 1e-5, steps + 1)
  for step in range(steps - 1):
    masked = (np.asarray(trace[step]) == MASK).sum()
    test = stats.binomtest(int(masked), rows * LENGTH, times[step + 1])
    assert test.pvalue > LEAST_P, step


@functools.partial(jax.jit, static_argnames=("order", "num_steps"))
def filled_in(tokens, prompt_mask, keys, order, num_steps):
  return infill(
    lambda state: logits_of(2),
    tokens,
    prompt_mask,
    keys,
    mask_id=MASK,
    sampling=TextSampling(num_steps=num_steps, order=order),
  )


@settings(max_examples=60, deadline=None)
@given(
  fixed=st.lists(st.booleans(), min_size=LENGTH, max_size=LENGTH),
  tokens=st.lists(st.integers(0, MASK - 1), min_size=LENGTH, max_size=LENGTH),
  order=st.sampled_from(["ancestral", "confidence"]),
  num_steps=st.sampled_from([1, 3, 9]),
  seed=st.integers(0, 1000),
)
def test_fixed_tokens_never_change(fixed, tokens, order, num_steps, seed):
  tokens, prompt_mask = jnp.asarray([tokens] * 2), jnp.asarray([fixed] * 2)
  finished, trace = filled_in(
    tokens, prompt_mask, keys_of(seed, 2), order, num_steps
  )
  for state in [*trace, finished]:
    np.testing.assert_array_equal(
      np.where(fixed, state, tokens), np.asarray(tokens)
    )
  assert (np.asarray(finished) != MASK).all()


def test_confidence_reveals_the_surest_first_and_equally_many():
  steps = 3
  finished, trace = infill(
    lambda state: logits_of(1),
    jnp.zeros((1, LENGTH), jnp.int32),
    jnp.zeros((1, LENGTH), bool),
    keys_of(0, 1),
    mask_id=MASK,
    sampling=TextSampling(num_steps=steps, order="confidence", temperature=0.0),
  )
  surest_first = np.argsort(-probabilities().max(-1))
  for step in range(steps):
    revealed = np.flatnonzero(np.asarray(trace[step][0]) != MASK)
    assert set(revealed) == set(surest_first[: 2 * (step + 1)])
  np.testing.assert_array_equal(finished[0], probabilities().argmax(-1))


@pytest.mark.parametrize(
  ("values", "part"),
  [
    ({"num_steps": 0}, "got 0"),
    ({"num_steps": 10**9}, "num_steps must be in 1 to 10000, got 1000000000"),
    ({"temperature": -1.0}, "-1.0"),
  ],
)
def test_bad_settings_name_the_value(values, part):
  with pytest.raises(ValueError, match=part):
    TextSampling(**values)


@pytest.mark.parametrize("order", ["ancestral", "confidence"])
def test_a_rows_draws_do_not_depend_on_the_rows_beside_it(order):
  def drawn(rows):
    keys = row_keys(jax.random.key(2), jnp.asarray(rows))
    finished, trace = infill(
      lambda state: logits_of(len(rows)),
      jnp.zeros((len(rows), LENGTH), jnp.int32),
      jnp.zeros((len(rows), LENGTH), bool),
      keys,
      mask_id=MASK,
      sampling=TextSampling(num_steps=4, order=order),
    )
    return np.concatenate([trace, finished[None]])

  many = drawn(range(5))
  np.testing.assert_array_equal(drawn([3])[:, 0], many[:, 3])
  np.testing.assert_array_equal(drawn([4, 1]), many[:, [4, 1]])
  assert len({row.tobytes() for row in many.swapaxes(0, 1)}) == 5
