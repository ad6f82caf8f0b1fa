"""The text diffusion against its laws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from ddit_jax.diffusion.masked_diffusion import (
  MaskedDiffusion,
  log_probabilities,
)

MASK = 9


def masked(process, t, *, rows=3000, length=8, num_fixed=2):
  tokens = jnp.ones((rows, length), jnp.int32)
  loss_mask = jnp.broadcast_to(jnp.arange(length) >= num_fixed, tokens.shape)
  return process.mask_tokens(
    jax.random.key(0), tokens, loss_mask, jnp.full(rows, t), mask_id=MASK
  )


@pytest.mark.parametrize(
  ("chance", "t", "want"),
  [("linear", 0.3, 0.3), ("log_linear", 0.9, 0.999 * 0.9)],
)
def test_bernoulli_masks_each_target_with_its_chance(chance, t, want):
  process = MaskedDiffusion(noise_schedule=chance)
  noisy, is_masked, weight = masked(process, t)
  count = int(is_masked.sum())
  assert stats.binomtest(count, 3000 * 6, want).pvalue > 1e-3
  np.testing.assert_array_equal(noisy == MASK, is_masked)
  np.testing.assert_allclose(weight, 1 / t, rtol=1e-6)


@pytest.mark.parametrize(
  ("t", "count"), [(1e-3, 1), (0.5, 3), (0.51, 4), (1.0, 6)]
)
def test_exact_masks_the_rounded_up_share_uniformly(t, count):
  process = MaskedDiffusion(mask_count="exact")
  _, is_masked, weight = masked(process, t)
  np.testing.assert_array_equal(is_masked.sum(-1), count)
  np.testing.assert_allclose(weight, 6 / count)
  hits = np.asarray(is_masked.sum(0))
  np.testing.assert_array_equal(hits[:2], 0)
  assert hits[2:].sum() == 3000 * count
  if count < 6:
    assert stats.chisquare(hits[2:]).pvalue > 1e-3


@pytest.mark.parametrize("mask_count", ["bernoulli", "exact"])
def test_expected_weight_times_masked_tokens_is_the_number_of_targets(
  mask_count,
):
  """Each target token counts once in expectation, at every t and on average."""
  process = MaskedDiffusion(mask_count=mask_count, min_time=0.05)
  rows = 20000
  t = process.training_times(jax.random.key(1), rows)
  tokens = jnp.ones((rows, 5), jnp.int32)
  _, is_masked, weight = process.mask_tokens(
    jax.random.key(2), tokens, tokens == 1, t, mask_id=MASK
  )
  per_row = np.asarray(weight * is_masked.sum(-1))
  error = per_row.std() / np.sqrt(rows)
  assert abs(per_row.mean() - 5) < 4 * error + 1e-6


def test_rows_without_targets_are_left_alone():
  for mask_count in ("bernoulli", "exact"):
    process = MaskedDiffusion(mask_count=mask_count)
    noisy, is_masked, weight = masked(process, 0.9, num_fixed=8)
    assert not is_masked.any() and (noisy == 1).all()
    assert np.isfinite(weight).all()


def test_training_times_are_stratified_over_the_batch():
  process = MaskedDiffusion(min_time=1e-3)
  t = np.sort(process.training_times(jax.random.key(0), 64))
  assert t[0] >= 1e-3 and t[-1] <= 1
  np.testing.assert_allclose(np.diff(t), (1 - 1e-3) / 64, rtol=1e-3)


def test_the_weight_is_minus_slope_over_hidden():
  """Eq. 7's weight, by automatic differentiation of the visible chance."""
  process, t = MaskedDiffusion(), jnp.float32(0.3)
  slope = jax.grad(lambda t: 1 - process.mask_probability(t))(t)
  want = -slope / process.mask_probability(t)
  np.testing.assert_allclose(process.loss_weight(t), want, rtol=1e-6)


def test_the_mask_has_probability_zero():
  logits = jnp.zeros((2, MASK + 1)).at[:, MASK].set(50.0)
  log_p = log_probabilities(logits, MASK)
  assert (log_p[:, MASK] == -jnp.inf).all()
  np.testing.assert_allclose(log_p[:, :MASK], -np.log(MASK), rtol=1e-6)


@pytest.mark.parametrize(
  ("values", "part"),
  [
    ({"min_time": 0.0}, "^min_time .* 0.0"),
    ({"epsilon": 1.0}, "^epsilon .* 1.0"),
  ],
)
def test_bad_settings_name_the_value(values, part):
  with pytest.raises(ValueError, match=part):
    MaskedDiffusion(**values)
