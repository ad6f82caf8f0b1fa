"""Likelihoods against exact enumeration and closed forms."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddit_jax.losses.likelihood import (
  LikelihoodConfig,
  image_bound,
  text_bound,
)
from ddit_jax.prng import row_keys

WORDS, LENGTH, MASK = 3, 4, 3


def log_table(seed: int) -> np.ndarray:
  """Logits of every partly masked text, at every position, by its digits."""
  rng = np.random.default_rng(seed)
  return rng.normal(size=((WORDS + 1) ** LENGTH, LENGTH, WORDS + 1)) * 2


def state_number(state):
  return state @ (WORDS + 1) ** np.arange(LENGTH)


def tabular(table):
  table = jnp.asarray(table, jnp.float32)
  return lambda state: table[state_number(state)]


def nats_at(table, state, place, token) -> float:
  logits = table[state_number(np.array(state))][place][:WORDS]
  return float(np.log(np.exp(logits).sum()) - logits[token])


def by_enumeration(table, text, given, scored) -> float:
  """The mean over all orders of the sum of each token's nats."""
  places = np.flatnonzero(scored)
  sums = []
  for order in itertools.permutations(places):
    state = np.where(given, text, MASK)
    total = 0.0
    for place in order:
      total += nats_at(table, state, place, text[place])
      state[place] = text[place]
    sums.append(total)
  return float(np.mean(sums))


@functools.partial(jax.jit, static_argnames="num_passes")
def bound(table, texts, given, scored, seeds, num_passes):
  return text_bound(
    tabular(table),
    texts,
    given,
    scored,
    row_keys(jax.random.key(0), seeds),
    mask_id=MASK,
    num_passes=num_passes,
  )


def estimate(table, texts, given, scored, *, num_passes):
  """A `Bound` of rows, each with a key of its own."""
  seeds = np.arange(len(texts))
  return bound(table, texts, given, scored, seeds, num_passes)


def tiled(rows: int, *arrays) -> list[np.ndarray]:
  return [np.tile(array, (rows, 1)) for array in arrays]


GIVEN = np.array([True, False, False, False])
SCORED = np.array([False, True, True, True])
TEXT = np.array([1, 0, 2, 1])


@pytest.mark.parametrize("scored", [SCORED, [False, True, False, True]])
def test_text_bound_is_that_of_all_orders(scored):
  scored = np.array(scored)
  table = log_table(0)
  want = by_enumeration(table, TEXT, GIVEN, scored)
  rows = 200
  got = estimate(table, *tiled(rows, TEXT, GIVEN, scored), num_passes=16)
  values = np.asarray(got.nats, np.float64)
  # Four standard errors of the mean of 200 estimates.
  spread = values.std(ddof=1)
  assert abs(values.mean() - want) < 4 * spread / np.sqrt(rows)
  # The spread of 200 values is known to 5 %, the mean variance as well.
  stated = np.sqrt(np.mean(np.square(got.standard_error)))
  assert stated == pytest.approx(spread, rel=0.2)


def test_strata_reduce_the_spread():
  """Against the mean of as many passes that are drawn independently."""
  rows = tiled(1600, TEXT, GIVEN, SCORED)
  pairs = np.asarray(estimate(log_table(0), *rows, num_passes=2).nats)
  rows = [array[:200] for array in rows]
  whole = np.asarray(estimate(log_table(0), *rows, num_passes=16).nats)
  assert whole.std() < 0.9 * pairs.reshape(200, 8).mean(axis=1).std()


def test_a_consistent_network_gives_the_likelihood_itself():
  """Conditionals of one joint distribution: every order sums to -log p."""
  rng = np.random.default_rng(3)
  joint = rng.dirichlet(np.ones(WORDS**LENGTH)).reshape([WORDS] * LENGTH)
  table = np.full(((WORDS + 1) ** LENGTH, LENGTH, WORDS + 1), -1e9)
  for state in itertools.product(range(WORDS + 1), repeat=LENGTH):
    seen = joint[tuple(slice(None) if x == MASK else x for x in state)]
    hidden = [i for i, x in enumerate(state) if x == MASK]
    for axis, place in enumerate(hidden):
      others = tuple(a for a in range(len(hidden)) if a != axis)
      row = state_number(np.array(state))
      table[row, place, :WORDS] = np.log(seen.sum(axis=others) / seen.sum())
  texts = np.array(list(itertools.product(range(WORDS), repeat=LENGTH)))
  want = -np.log(joint.reshape(-1))
  everything = np.ones_like(texts, bool)
  got = estimate(table, texts, ~everything, everything, num_passes=64)
  errors = (np.asarray(got.nats) - want) / np.asarray(got.standard_error)
  # 81 independent z-scores.
  assert abs(errors.mean()) < 0.5 and 0.7 < errors.std() < 1.4


def test_padding_and_other_rows_do_not_count():
  """Bit for bit: ids outside the text, and what else is in the batch."""
  table = log_table(1)
  scored = np.array([False, True, True, False])
  rows = tiled(200, TEXT, GIVEN, scored)
  first = estimate(table, *rows, num_passes=16)
  rows[0] = np.random.default_rng(0).integers(0, WORDS, rows[0].shape)
  rows[0][0] = [*TEXT[:3], (TEXT[3] + 1) % WORDS]
  rows[0][1] = 2
  second = estimate(table, *rows, num_passes=16)
  assert float(first.nats[0]) == float(second.nats[0])
  assert float(first.standard_error[0]) == float(second.standard_error[0])
  assert float(first.nats[1]) != float(second.nats[1])


def test_nothing_scored_is_certain():
  nothing = np.zeros(LENGTH, bool)
  rows = tiled(200, TEXT, nothing, nothing)
  got = estimate(log_table(0), *rows, num_passes=16)
  assert float(got.nats[0]) == 0 and float(got.standard_error[0]) == 0


def test_a_gradient_holds_no_pass():
  """What it keeps does not grow by the logits of each pass."""
  tokens, scored = tiled(5, TEXT, SCORED)
  table = jnp.asarray(log_table(0), jnp.float32)

  def num_held(num_passes):
    def nats(table):
      seeds = np.arange(len(tokens))
      return bound(table, tokens, ~scored, scored, seeds, num_passes).nats

    _, pullback = jax.vjp(nats, table)
    return sum(leaf.size for leaf in jax.tree.leaves(pullback))

  assert num_held(8) - num_held(4) <= 4 * tokens.size


def gaussian_velocity(mean: float, std: float):
  """E[noise - x | x_sigma] where x has independent normal dimensions."""

  def velocity(latents, sigma):
    sigma = sigma[:, None, None, None]
    variance = (1 - sigma) ** 2 * std**2 + sigma**2
    offset = latents - (1 - sigma) * mean
    return (sigma - (1 - sigma) * std**2) / variance * offset - mean

  return velocity


def test_image_bound_of_a_gaussian_is_its_density():
  mean, std = 0.3, 0.5
  latents = mean + std * np.random.default_rng(0).normal(size=(4, 4, 4, 3))
  got = image_bound(
    gaussian_velocity(mean, std),
    jnp.asarray(latents, jnp.float32),
    row_keys(jax.random.key(0), jnp.arange(4)),
    num_steps=64,
    num_draws=2,
    bin_width=0.0,
  )
  z = (latents - mean) / std
  want = (z**2 / 2 + np.log(std * np.sqrt(2 * np.pi))).mean(axis=(1, 2, 3))
  # Heun's error with 64 steps; the divergence of a linear field is exact.
  np.testing.assert_allclose(got.nats, want, atol=2e-4)
  assert np.asarray(got.standard_error).max() < 1e-6


def test_image_bound_of_bins_is_their_probability():
  """A uniform density of bins that are far narrower than the Gaussian."""
  width = 0.01
  keys = row_keys(jax.random.key(0), jnp.arange(2))
  got = image_bound(
    gaussian_velocity(0.0, 1.0),
    jnp.zeros((2, 4, 4, 1)),
    keys,
    num_steps=8,
    num_draws=2,
    bin_width=width,
  )
  # log of width times the density at 0, which is flat there to width^2 / 24.
  want = np.log(np.sqrt(2 * np.pi)) - np.log(width)
  np.testing.assert_allclose(got.nats, want, atol=1e-4)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"text_passes": 3}, "text_passes must be even, got 3"),
    ({"image_draws": 1}, "image_draws must be at least 2, got 1"),
    ({"ode_steps": 0}, "ode_steps must be in 1 to"),
  ],
)
def test_efforts_are_checked(change, message):
  with pytest.raises(ValueError, match=message):
    LikelihoodConfig(**change)
