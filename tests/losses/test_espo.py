"""The loss of drawn texts with rewards against its formula, in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddit_jax.losses.espo import Espo, RewardedTexts
from tests.losses.some_texts import NEW, NUM_SCORED, OLD, REFERENCE, ROWS, texts

ADVANTAGE = np.array([1.0, -1.0, 0.5, 0.0, -0.2], np.float32)


def scored() -> RewardedTexts:
  return RewardedTexts(
    drawn=texts(),
    old_log_p=jnp.asarray(OLD),
    reference_log_p=jnp.asarray(REFERENCE),
    advantage=jnp.asarray(ADVANTAGE),
    weight=jnp.full(ROWS, 1 / ROWS),
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


def test_an_empty_text_leaves_the_other_rows_alone():
  nothing = texts()
  nothing = nothing.replace(is_scored=jnp.zeros_like(nothing.is_scored))
  zeros = jnp.zeros(ROWS)
  rewarded = scored().replace(
    drawn=nothing, old_log_p=zeros, reference_log_p=zeros
  )
  found = Espo().losses(zeros, rewarded)
  np.testing.assert_allclose(found["text"], -ADVANTAGE.mean(), rtol=1e-6)
  assert found["text_kl"] == 0


@pytest.mark.parametrize(
  ("name", "value"), [("clip", 1.0), ("kl_weight", -1.0)]
)
def test_bad_settings_are_refused(name, value):
  with pytest.raises(ValueError, match=name):
    Espo(**{name: value})
