"""The schedule at its corners, and AdamW against a hand-written loop."""

import math

import jax
import numpy as np
import optax
import pytest

from ddit_jax.settings import OptimizerSettings
from ddit_jax.train.optimizer import is_decayed, learning_rate, make_optimizer
from tests.train.adamw_by_hand import adamw_by_hand

PEAK = 2.0
NUM_STEPS = 100


def rate(step: int, *, num_steps=NUM_STEPS, **changes) -> float:
  values = {"learning_rate": PEAK, "warmup_steps": 10} | changes
  schedule = learning_rate(OptimizerSettings(**values), num_steps)
  return float(schedule(step))


@pytest.mark.parametrize(
  ("step", "want"), [(0, 0.0), (1, 0.2), (5, 1.0), (9, 1.8), (10, 2.0)]
)
@pytest.mark.parametrize("decay", ["constant", "linear", "cosine"])
def test_the_warm_up_is_linear_from_zero(decay, step, want):
  got = rate(step, decay=decay, decay_fraction=0.5)
  assert got == pytest.approx(want, rel=1e-6)


@pytest.mark.parametrize("step", [10, 50, 99, 100, 1000])
def test_a_constant_rate_stays(step):
  assert rate(step) == PEAK


@pytest.mark.parametrize(
  ("decay", "step", "want"),
  [
    ("linear", 60, PEAK),
    ("linear", 70, PEAK * 0.75),
    ("linear", 80, PEAK * 0.5),
    ("linear", 99, PEAK * 0.025),
    ("linear", 100, 0.0),
    ("linear", 200, 0.0),
    ("cosine", 60, PEAK),
    ("cosine", 70, PEAK * (1 + math.cos(math.pi / 4)) / 2),
    ("cosine", 80, PEAK * 0.5),
    ("cosine", 100, 0.0),
  ],
)
def test_the_decay_fills_the_last_share_of_the_run(decay, step, want):
  got = rate(step, decay=decay, decay_fraction=0.4)
  assert got == pytest.approx(want, rel=1e-5, abs=1e-7)


def test_without_warm_up_the_first_step_has_the_full_rate():
  for decay in ("constant", "linear", "cosine"):
    assert rate(0, warmup_steps=0, decay=decay, decay_fraction=0.5) == PEAK


def test_a_decay_never_reaches_into_the_warm_up():
  assert rate(10, decay="linear", decay_fraction=1.0) == PEAK
  assert rate(55, decay="linear", decay_fraction=1.0) == pytest.approx(1.0)


def test_a_run_shorter_than_its_warm_up_only_warms_up():
  for decay in ("constant", "linear", "cosine"):
    got = rate(4, num_steps=5, decay=decay)
    assert got == pytest.approx(0.8, rel=1e-6)


def test_four_updates_equal_clipping_and_adamw_by_hand():
  settings = OptimizerSettings(
    learning_rate=0.01,
    warmup_steps=2,
    beta1=0.9,
    beta2=0.99,
    weight_decay=0.1,
    clip_norm=2.0,
  )
  draw = np.random.default_rng(0)
  shapes = {"kernel": (3, 4), "bias": (4,), "null_image": (2, 3)}
  params = {k: draw.normal(size=s).astype("f4") for k, s in shapes.items()}
  # The norms are near 5, 0.5, 5 and 0.05: clipped in turn.
  gradients = [
    {k: (size * draw.normal(size=s)).astype("f4") for k, s in shapes.items()}
    for size in (1.0, 0.1, 1.0, 0.01)
  ]
  want = adamw_by_hand(params, gradients, settings, {"kernel", "bias"})
  optimizer = make_optimizer(settings, NUM_STEPS)
  state, got = optimizer.init(params), params
  for grads in gradients:
    updates, state = optimizer.update(grads, state, got)
    got = optax.apply_updates(got, updates)
  for name in shapes:
    # Measured 1.1e-7.
    np.testing.assert_allclose(got[name], want[name], atol=1e-6)
    assert np.abs(got[name] - params[name]).max() > 1e-2


def test_a_null_image_without_gradient_is_left_alone():
  """As PyTorch's AdamW skips parameters whose gradient is None."""
  settings = OptimizerSettings(learning_rate=0.1, warmup_steps=0)
  params = {"null_image": np.ones((2, 3), "f4"), "bias": np.ones(3, "f4")}
  grads = jax.tree.map(np.zeros_like, params)
  optimizer = make_optimizer(settings, NUM_STEPS)
  updates, _ = optimizer.update(grads, optimizer.init(params), params)
  np.testing.assert_array_equal(updates["null_image"], 0)
  # rate * weight decay = 0.1 * 0.01.
  np.testing.assert_allclose(updates["bias"], -1e-3, rtol=1e-6)


def test_only_the_null_image_escapes_weight_decay():
  tree = {"blocks": {"bias": 0, "kernel": 0}, "null_image": 0}
  assert is_decayed(tree) == {
    "blocks": {"bias": True, "kernel": True},
    "null_image": False,
  }
