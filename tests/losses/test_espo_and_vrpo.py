"""Losses of drawn texts against their formulas, in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddit_jax.losses.drawn_texts import DrawnTexts, scored_positions
from ddit_jax.losses.espo import Espo, RewardedTexts
from ddit_jax.losses.vrpo import PreferredTexts, Vrpo

ROWS, LENGTH, END = 5, 6, 9
NEW, OLD, REFERENCE = (
  np.random.default_rng(0).normal(-3, 1, (3, ROWS)).astype("f4")
)
ADVANTAGE = np.array([1.0, -1.0, 0.5, 0.0, -0.2], np.float32)
NUM_SCORED = np.array([1, 2, 3, 4, 5])


def texts() -> DrawnTexts:
  shape = (ROWS, LENGTH)
  return DrawnTexts(
    latents=None,
    tokens=jnp.zeros(shape, jnp.int32),
    is_given=jnp.zeros(shape, bool),
    is_scored=jnp.arange(LENGTH)[None] < NUM_SCORED[:, None],
    draws=jnp.zeros((ROWS, 2), jnp.uint32),
  )


def scored() -> RewardedTexts:
  return RewardedTexts(
    drawn=texts(),
    old_log_p=jnp.asarray(OLD),
    reference_log_p=jnp.asarray(REFERENCE),
    advantage=jnp.asarray(ADVANTAGE),
    weight=jnp.full(ROWS, 1 / ROWS),
  )


def pairs(weight) -> PreferredTexts:
  return PreferredTexts(
    chosen=texts(),
    rejected=texts(),
    chosen_reference=jnp.asarray(OLD),
    rejected_reference=jnp.asarray(REFERENCE),
    weight=jnp.asarray(weight, jnp.float32),
  )


def test_espo_clips_the_ratio_of_whole_texts_per_token():
  gains, distances = [], []
  for i in range(ROWS):
    ratio = np.exp((NEW[i] - OLD[i]) / NUM_SCORED[i])
    clipped = min(max(ratio, 0.9), 1.1)
    gains.append(min(ratio * ADVANTAGE[i], clipped * ADVANTAGE[i]))
    distances.append(((NEW[i] - REFERENCE[i]) / NUM_SCORED[i]) ** 2 / 2)
  losses = Espo(clip=0.1).losses(jnp.asarray(NEW), scored())
  np.testing.assert_allclose(losses["text"], -np.mean(gains), rtol=1e-6)
  np.testing.assert_allclose(losses["text_kl"], np.mean(distances), rtol=1e-6)
  alone = scored().replace(reference_log_p=None)
  found = Espo(clip=0.1).losses(jnp.asarray(NEW), alone)
  assert found == {"text": losses["text"]}


def test_espo_raises_good_texts_and_lets_go_of_those_that_moved_enough():
  def loss(log_p):
    return Espo(clip=0.2).losses(log_p, scored())["text"]

  # On the old policy the gradient is -advantage / n of each row.
  start = jax.grad(loss)(jnp.asarray(OLD))
  np.testing.assert_allclose(start, -ADVANTAGE / NUM_SCORED / ROWS, rtol=1e-6)
  far = jax.grad(loss)(jnp.asarray(OLD + 2 * np.sign(ADVANTAGE) * NUM_SCORED))
  np.testing.assert_array_equal(far, 0)


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


def test_a_text_is_scored_up_to_its_first_end():
  tokens = jnp.array([[7, 9, 3, 9, 9], [7, 7, 9, 4, 9], [7, 7, 1, 2, 3]])
  is_given = jnp.array([[1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 0, 0, 0]])
  found = scored_positions(tokens, is_given.astype(bool), END)
  np.testing.assert_array_equal(
    found, [[0, 0, 1, 1, 0], [0, 0, 1, 0, 0], [0, 0, 1, 1, 1]]
  )


def test_an_empty_text_leaves_the_other_rows_alone():
  nothing = texts().replace(is_scored=jnp.zeros((ROWS, LENGTH), bool))
  zeros = jnp.zeros(ROWS)
  rewarded = scored().replace(
    drawn=nothing, old_log_p=zeros, reference_log_p=zeros
  )
  found = Espo().losses(zeros, rewarded)
  np.testing.assert_allclose(found["text"], -ADVANTAGE.mean(), rtol=1e-6)
  assert found["text_kl"] == 0
  preferred = pairs(np.full(ROWS, 1 / ROWS)).replace(chosen=nothing)
  assert np.isfinite(Vrpo().losses(zeros, zeros, preferred)["text_kl"])


@pytest.mark.parametrize(
  ("part", "name", "value"),
  [(Espo, "clip", 1.0), (Espo, "kl_weight", -1.0), (Vrpo, "beta", 0.0)],
)
def test_bad_settings_are_refused(part, name, value):
  with pytest.raises(ValueError, match=name):
    part(**{name: value})
