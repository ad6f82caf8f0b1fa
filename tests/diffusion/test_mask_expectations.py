"""Expected masked losses: the same number for every way of masking."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from ddit_jax.diffusion.masked_diffusion import (
  MaskedDiffusion,
  log_probabilities,
)

MASK, LENGTH, ROWS = 9, 6, 40_000


def draws(t, num_targets=LENGTH, **settings):
  """(is_masked, weight) of many rows, the first positions being fixed."""
  process = MaskedDiffusion(**settings)
  tokens = jnp.ones((t.shape[0], LENGTH), jnp.int32)
  loss_mask = jnp.arange(LENGTH) >= LENGTH - num_targets
  _, is_masked, weight = process.mask_tokens(
    jax.random.key(0),
    tokens,
    jnp.broadcast_to(loss_mask, tokens.shape),
    t,
    mask_id=MASK,
  )
  return np.asarray(is_masked), np.asarray(weight, np.float64)


@pytest.mark.parametrize(("t", "num_targets"), [(0.05, 2), (0.5, 6), (1.0, 6)])
@pytest.mark.parametrize(
  ("settings", "share"),
  [
    ({}, 1.0),
    ({"noise_schedule": "log_linear", "epsilon": 0.2}, 0.8),
    ({"mask_count": "exact"}, 1.0),
  ],
)
def test_weight_times_masked_count_at_each_time(
  t, num_targets, settings, share
):
  """E[count] / t = n for chance t, (1 - epsilon) n for the log-linear one."""
  is_masked, weight = draws(jnp.full(ROWS, t), num_targets, **settings)
  values = weight * is_masked.sum(1)
  # Four standard errors; rounding where there is no spread.
  allowed = 4 * values.std() / np.sqrt(ROWS) + 1e-5
  assert abs(values.mean() - share * num_targets) < allowed


def nll_of(count):
  """A made-up mean loss of a masked token, harder the more are masked."""
  return np.array([0.0, 1.0, 1.5, 2.5, 2.75, 3.5, 4.0])[count]


@pytest.mark.parametrize("mask_count", ["bernoulli", "exact"])
def test_both_counts_have_the_same_expected_loss(mask_count):
  """Over t uniform in (0, 1), E[weight * count * nll(count)] = sum of nll.

  Bernoulli: the integral of t ** (k - 1) (1 - t) ** (n - k) is a beta function
  that cancels the binomial coefficient times k. Exact: each count k has chance
  1 / n and weight n / k.
  """
  process = MaskedDiffusion(min_time=1e-6)
  t = process.training_times(jax.random.key(1), ROWS)
  is_masked, weight = draws(t, mask_count=mask_count, min_time=1e-6)
  count = is_masked.sum(1)
  values = weight * count * nll_of(count)
  want = nll_of(np.arange(1, LENGTH + 1)).sum()
  # Stratified times only shrink the error further.
  assert abs(values.mean() - want) < 4 * values.std() / np.sqrt(ROWS)


def test_exact_counts_have_less_variance():
  t = MaskedDiffusion().training_times(jax.random.key(1), ROWS)
  spreads = {}
  for mask_count in ("bernoulli", "exact"):
    is_masked, weight = draws(t, mask_count=mask_count)
    count = is_masked.sum(1)
    spreads[mask_count] = (weight * count * nll_of(count)).var()
  # Measured 39 against 145.
  assert spreads["exact"] < 0.5 * spreads["bernoulli"]


@pytest.mark.parametrize("mask_count", ["bernoulli", "exact"])
def test_every_pattern_of_a_size_is_equally_likely(mask_count):
  is_masked, _ = draws(jnp.full(ROWS, 0.5), 4, mask_count=mask_count)
  patterns = is_masked[:, -4:] @ (2 ** np.arange(4))
  counts = np.bincount(patterns, minlength=16)
  if mask_count == "exact":
    two_of_four = np.array([bin(i).count("1") == 2 for i in range(16)])
    assert counts[~two_of_four].sum() == 0
    counts = counts[two_of_four]
  assert stats.chisquare(counts).pvalue > 1e-3


def test_the_shift_of_the_strata_is_uniform():
  """So that each example's time is uniform, if not independent."""
  process = MaskedDiffusion(min_time=0.01)
  keys = jax.random.split(jax.random.key(0), 1000)
  first = jax.vmap(lambda key: process.training_times(key, 4)[0])(keys)
  depth = (np.asarray(first, np.float64) - 0.01) / 0.99 * 4
  assert stats.kstest(depth, "uniform").pvalue > 1e-3


def test_probabilities_of_huge_logits_stay_finite_in_half_precision():
  logits = jnp.asarray([[300.0, -300.0, 0.0] + [0.0] * 7], jnp.bfloat16)
  log_p = log_probabilities(logits, MASK)
  assert log_p.dtype == jnp.float32
  np.testing.assert_allclose(log_p[0, :3], [0.0, -600.0, -300.0], atol=1e-6)
  slopes = jax.grad(lambda x: log_probabilities(x, MASK)[0, 0])(logits)
  assert np.isfinite(np.asarray(slopes, np.float32)).all()
  assert slopes[0, MASK] == 0
