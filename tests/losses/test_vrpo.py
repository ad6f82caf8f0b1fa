"""The loss of pairs of drawn texts against its formula, in NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest

from ddit_jax.losses.vrpo import PreferredTexts, Vrpo
from tests.losses.some_texts import NEW, OLD, REFERENCE, ROWS, texts


def pairs(weight) -> PreferredTexts:
  return PreferredTexts(
    chosen=texts(),
    rejected=texts(),
    chosen_reference=jnp.asarray(OLD),
    rejected_reference=jnp.asarray(REFERENCE),
    weight=jnp.asarray(weight, jnp.float32),
  )


def test_vrpo_is_dpo_on_the_bounds():
  weight = np.array([0.5, 0.5, 0, 0, 0])
  beta, rejected = 0.3, NEW[::-1]
  wanted = 0.0
  for i in range(2):
    margin = (NEW[i] - OLD[i]) - (rejected[i] - REFERENCE[i])
    wanted += 0.5 * np.log(1 + np.exp(-beta * margin))
  losses = Vrpo(beta=beta).losses(
    jnp.asarray(NEW), jnp.asarray(rejected), pairs(weight)
  )
  np.testing.assert_allclose(losses["text"], wanted, rtol=1e-6)
  at_start = Vrpo(beta=beta).losses(
    jnp.asarray(OLD), jnp.asarray(REFERENCE), pairs(weight)
  )
  np.testing.assert_allclose(at_start["text"], np.log(2), rtol=1e-6)
  assert at_start["text_kl"] == 0


def test_an_empty_text_has_a_finite_distance():
  nothing = texts()
  nothing = nothing.replace(is_scored=jnp.zeros_like(nothing.is_scored))
  preferred = pairs(np.full(ROWS, 1 / ROWS)).replace(chosen=nothing)
  zeros = jnp.zeros(ROWS)
  assert np.isfinite(Vrpo().losses(zeros, zeros, preferred)["text_kl"])


def test_a_beta_of_zero_is_refused():
  with pytest.raises(ValueError, match="beta"):
    Vrpo(beta=0.0)
