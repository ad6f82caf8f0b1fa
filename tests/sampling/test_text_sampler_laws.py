"""Laws of whole sampling runs whose predictions depend on what is known."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from ddit_jax.prng import row_keys
from ddit_jax.sampling.text_sampler import TextSampling, infill

LEAST_P = 1e-3
# Two tokens out of three ids that nearly always agree.
JOINT = np.array([[0.30, 0.02, 0.03], [0.02, 0.25, 0.03], [0.05, 0.05, 0.25]])
MARGINALS = [JOINT.sum(1), JOINT.sum(0)]
MASK = 3


def conditional_logits(state):
  """log p(token | the other token, if it is known), [batch, 2, 4]."""
  joint = jnp.asarray(JOINT, jnp.float32)
  logits = []
  for position in range(2):
    table = joint if position == 0 else joint.T
    other = state[:, 1 - position]
    known = table[:, jnp.minimum(other, 2)].T
    marginal = jnp.broadcast_to(table.sum(1), known.shape)
    chance = jnp.where((other == MASK)[:, None], marginal, known)
    # A confident mask, to show that it is never drawn.
    mask = jnp.full((state.shape[0], 1), 99.0)
    logits.append(jnp.concatenate([jnp.log(chance), mask], axis=1))
  return jnp.stack(logits, axis=1)


@functools.partial(jax.jit, static_argnames=("rows", "sampling"))
def drawn(seed, rows, sampling, junk=0):
  return infill(
    conditional_logits,
    jnp.full((rows, 2), junk, jnp.int32),
    jnp.zeros((rows, 2), bool),
    row_keys(jax.random.key(seed), jnp.arange(rows)),
    mask_id=MASK,
    sampling=sampling,
  )


def pairs_of(finished):
  """How often each pair of tokens came out, [3, 3]."""
  counts = np.zeros((3, 3))
  np.add.at(counts, tuple(np.asarray(finished).T), 1)
  return counts


@pytest.mark.parametrize("num_steps", [2, 5])
def test_pairs_follow_the_joint_law_but_for_simultaneous_reveals(num_steps):
  """Both at once, with chance 1 / steps, are independent; else exact."""
  rows = 6000
  finished, _ = drawn(0, rows, TextSampling(num_steps=num_steps))
  independent = np.outer(*MARGINALS)
  law = independent / num_steps + JOINT * (1 - 1 / num_steps)
  counts = pairs_of(finished)
  assert counts.sum() == rows
  assert stats.chisquare(counts.ravel(), rows * law.ravel()).pvalue > LEAST_P
  # The test can tell: neither part alone is the law.
  for other in (independent, JOINT):
    pvalue = stats.chisquare(counts.ravel(), rows * other.ravel()).pvalue
    assert pvalue < 1e-6


def first_of_two(draws, confidence):
  """Chance of (position, token) going first, [2, 3].

  Both tokens are drawn apart, each from its row of `draws`; the one of higher
  `confidence` goes. No two confidences here are equal.
  """
  law = np.zeros((2, 3))
  for a, b in itertools.product(range(3), repeat=2):
    chance = draws[0][a] * draws[1][b]
    if confidence[0][a] > confidence[1][b]:
      law[0, a] += chance
    else:
      law[1, b] += chance
  return law


def test_the_surer_token_goes_first_and_the_other_follows_it():
  rows = 6000
  sampling = TextSampling(num_steps=2, order="confidence")
  finished, trace = drawn(1, rows, sampling)
  assert (np.asarray(trace[0] == MASK).sum(1) == 1).all()
  left, right = first_of_two(MARGINALS, MARGINALS)
  law = left[:, None] * JOINT / MARGINALS[0][:, None]
  law = law + right * JOINT / MARGINALS[1]
  counts = pairs_of(finished)
  assert stats.chisquare(counts.ravel(), rows * law.ravel()).pvalue > LEAST_P


def tempered(law, temperature):
  """p ** (1 / temperature), normed."""
  power = law ** (1 / temperature)
  return power / power.sum()


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_temperature_sharpens_ancestral_draws(temperature):
  sampling = TextSampling(num_steps=2, temperature=temperature)
  _, trace = drawn(2, 4000, sampling)
  for position, law in enumerate(MARGINALS):
    tokens = np.asarray(trace[0][:, position])
    tokens = tokens[tokens != MASK]
    counts = np.bincount(tokens, minlength=3)
    expected = len(tokens) * tempered(law, temperature)
    assert stats.chisquare(counts, expected).pvalue > LEAST_P


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_temperature_sharpens_draws_but_not_confidence(temperature):
  rows = 4000
  sampling = TextSampling(
    num_steps=2, order="confidence", temperature=temperature
  )
  _, trace = drawn(2, rows, sampling)
  draws = [tempered(law, temperature) for law in MARGINALS]
  law = rows * first_of_two(draws, MARGINALS).ravel()
  seen = np.asarray(trace[0]).T
  counts = np.ravel([np.bincount(x, minlength=4)[:3] for x in seen])
  assert counts[law == 0].sum() == 0
  result = stats.chisquare(counts[law > 0], law[law > 0])
  assert result.pvalue > LEAST_P


@pytest.mark.parametrize(
  ("num_masked", "num_steps", "want"),
  [(5, 3, [2, 2, 1]), (2, 4, [1, 0, 1, 0]), (0, 2, [0, 0])],
)
def test_confidence_reveals_shares_rounded_up(num_masked, num_steps, want):
  length = 6
  prompt_mask = np.arange(length) >= num_masked
  finished, trace = infill(
    lambda state: jnp.zeros((1, length, MASK + 1)),
    jnp.ones((1, length), jnp.int32),
    jnp.asarray(prompt_mask)[None],
    row_keys(jax.random.key(0), jnp.arange(1)),
    mask_id=MASK,
    sampling=TextSampling(num_steps=num_steps, order="confidence"),
  )
  left = [num_masked, *(np.asarray(trace) == MASK).sum((1, 2))]
  assert list(-np.diff(left)) == want
  assert (np.asarray(finished) != MASK).all()


@pytest.mark.parametrize("order", ["ancestral", "confidence"])
def test_revealed_tokens_stay_as_they_are(order):
  _, trace = drawn(4, 500, TextSampling(num_steps=4, order=order))
  states = np.asarray(trace)
  for before, after in itertools.pairwise(states):
    is_known = before != MASK
    np.testing.assert_array_equal(after[is_known], before[is_known])


def test_what_the_tokens_were_at_free_positions_is_not_read():
  sampling = TextSampling(num_steps=2)
  outcomes = [drawn(0, 50, sampling, junk)[0] for junk in (0, 2, MASK)]
  for other in outcomes[1:]:
    np.testing.assert_array_equal(other, outcomes[0])
