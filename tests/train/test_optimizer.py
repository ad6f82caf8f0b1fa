"""The schedule at its corners, and AdamW against a hand-written loop."""

import math

import jax
import ml_dtypes
import numpy as np
import optax
import pytest
from optax.contrib import MuonDimensionNumbers

from ddit_jax.models.config import size
from ddit_jax.models.module import Network
from ddit_jax.train.optimizer import OptimizerConfig, is_decayed, muon_axes
from tests.train.adamw_by_hand import adamw_by_hand

PEAK = 2.0
NUM_STEPS = 100


def rate(step: int, *, num_steps=NUM_STEPS, **changes) -> float:
  values = {"learning_rate": PEAK, "warmup_steps": 10} | changes
  schedule = OptimizerConfig(**values).schedule(num_steps)
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
  settings = OptimizerConfig(
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
  optimizer = settings.make(NUM_STEPS)
  state, got = optimizer.init(params), params
  for grads in gradients:
    updates, state = optimizer.update(grads, state, got)
    got = optax.apply_updates(got, updates)
  for name in shapes:
    # Measured 1.1e-7.
    np.testing.assert_allclose(got[name], want[name], atol=1e-6)
    assert np.abs(got[name] - params[name]).max() > 1e-2


def updated(settings, params, gradients):
  """Parameters after one update for each of the gradients."""
  optimizer = settings.make(NUM_STEPS)
  state = optimizer.init(params)
  for grads in gradients:
    updates, state = optimizer.update(grads, state, params)
    params = optax.apply_updates(params, updates)
  return params


def drawn(seed: int, **shapes):
  draw = np.random.default_rng(seed)
  return {k: draw.normal(size=s).astype("f4") for k, s in shapes.items()}


def test_a_bfloat16_moment_is_rounded_between_updates_and_nowhere_else():
  settings = OptimizerConfig(
    learning_rate=0.01,
    warmup_steps=1,
    weight_decay=0.1,
    clip_norm=100.0,
    first_moment_dtype="bfloat16",
  )
  params = drawn(0, kernel=(30, 40))
  gradients = [drawn(seed, kernel=(30, 40)) for seed in range(1, 9)]
  by_hand = [params, gradients, settings, {"kernel"}]
  want = adamw_by_hand(*by_hand, moment_dtype=ml_dtypes.bfloat16)["kernel"]
  exact = adamw_by_hand(*by_hand)["kernel"]
  got = updated(settings, params, gradients)["kernel"]
  # Measured 6e-7; the roundings themselves move parameters by up to 4.2e-4.
  assert np.abs(got - want).max() < 5e-6
  assert np.abs(want - exact).max() > 1e-4
  assert np.abs(got - params["kernel"]).max() > 0.01
  state = settings.make(NUM_STEPS).init(params)
  moments = [optax.tree.get(state, name)["kernel"] for name in ("mu", "nu")]
  assert [m.dtype for m in moments] == ["bfloat16", "float32"]


def adafactor_by_hand(params, gradients, rate, momentum, decay):
  """Shazeer & Stern 2018, algorithm 4, with absolute steps, in float64."""
  params = {k: v.astype(np.float64) for k, v in params.items()}
  rows, columns, means = {}, {}, {}
  for index, grads in enumerate(gradients):
    beta = 1 - (index + 1) ** -0.8
    for name, g in grads.items():
      square = g.astype(np.float64) ** 2 + 1e-30
      if g.ndim == 2 and min(g.shape) >= 64:
        row = rows.get(name, 0) * beta + (1 - beta) * square.mean(1)
        column = columns.get(name, 0) * beta + (1 - beta) * square.mean(0)
        rows[name], columns[name] = row, column
        second = np.outer(row, column) / row.mean()
      else:
        second = rows.get(name, 0) * beta + (1 - beta) * square
        rows[name] = second
      step = g / np.sqrt(second)
      step /= max(1.0, np.sqrt((step**2).mean()))
      step = means.get(name, 0) * momentum + (1 - momentum) * step
      means[name] = step
      params[name] -= rate * (step + decay * params[name])
  return params


@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_adafactor_equals_its_paper_by_hand(momentum):
  settings = OptimizerConfig(
    kind="adafactor",
    learning_rate=0.01,
    warmup_steps=0,
    beta1=momentum,
    weight_decay=0.1,
    clip_norm=1e6,
  )
  shapes = {"kernel": (64, 70), "bias": (70,)}
  params = drawn(0, **shapes)
  gradients = [drawn(seed, **shapes) for seed in (1, 2, 3)]
  want = adafactor_by_hand(params, gradients, 0.01, momentum, 0.1)
  got = updated(settings, params, gradients)
  for name in shapes:
    # Measured 2e-7.
    np.testing.assert_allclose(got[name], want[name], atol=2e-6)
    assert np.abs(got[name] - params[name]).max() > 3e-3


def test_adafactors_first_moment_can_be_bfloat16_or_left_out():
  params = drawn(0, kernel=(64, 70))
  dtypes = {}
  for changes in (
    {"beta1": 0.9, "first_moment_dtype": "bfloat16"},
    {"beta1": 0.0},
  ):
    settings = OptimizerConfig(kind="adafactor", **changes)
    leaves = jax.tree.leaves(settings.make(9).init(params))
    dtypes[changes["beta1"]] = [x.dtype for x in leaves if x.size == 64 * 70]
  assert dtypes == {0.9: ["bfloat16"], 0.0: []}


def block(**kernels):
  """One stream of scanned blocks with these kernels."""
  stream = {name: {"kernel": array} for name, array in kernels.items()}
  return {"blocks": {"image": stream}}


def test_muon_orthogonalises_each_matrix_of_a_block():
  # Two layers of width 12: three matrices to 2 heads of 6, and one back.
  grads = block(**drawn(0, qkv=(2, 12, 3, 2, 6), out=(2, 2, 6, 12)))
  params = block(**drawn(1, qkv=(2, 12, 3, 2, 6), out=(2, 2, 6, 12)))
  settings = OptimizerConfig(
    kind="muon",
    learning_rate=0.1,
    warmup_steps=0,
    weight_decay=0.0,
    clip_norm=1e6,
  )
  new = updated(settings, params, [grads])["blocks"]["image"]

  def check(change, gradient):
    left, _, right = np.linalg.svd(gradient)
    # 0.2 sqrt(12) times a matrix whose singular values Muon brings near one.
    inner = left.T @ (-change / (0.1 * 0.2 * 12**0.5)) @ right.T
    assert 0.6 < np.diag(inner).min() and np.diag(inner).max() < 1.3
    # Measured 2e-6.
    np.testing.assert_allclose(inner - np.diag(np.diag(inner)), 0, atol=1e-4)

  for name, axes in (("qkv", (2, 12, 3, 12)), ("out", (2, 12, 1, 12))):
    gradient = grads["blocks"]["image"][name]["kernel"].reshape(axes)
    change = new[name]["kernel"] - params["blocks"]["image"][name]["kernel"]
    change = np.asarray(change).reshape(axes)
    for layer in range(2):
      for row in range(axes[2]):
        check(change[layer, :, row], gradient[layer, :, row])


def test_muon_takes_the_blocks_matrices_and_adam_the_rest():
  network = Network(size("tiny", depth=1, vocab_size=8, max_text_length=4))
  axes = muon_axes(network.abstract_variables()["params"])
  stream = axes["blocks"]["text"]
  assert stream["mlp"]["in"]["kernel"].output_axis == (-1,)
  assert stream["modulation"]["project"]["kernel"].reduction_axis == (-3,)
  kernels = [
    path
    for path, found in jax.tree_util.tree_leaves_with_path(
      axes, is_leaf=lambda x: isinstance(x, MuonDimensionNumbers)
    )
    if isinstance(found, MuonDimensionNumbers)
  ]
  # qkv, output, modulation and the MLP's two, of both streams.
  assert len(kernels) == 10
  assert axes["text_head"]["project"]["kernel"] is None
  assert stream["qkv"]["bias"] is None


@pytest.mark.parametrize("kind", ["adamw", "adafactor", "muon"])
@pytest.mark.parametrize("first_moment_dtype", ["float32", "bfloat16"])
def test_every_kind_finds_the_bottom_of_a_bowl(kind, first_moment_dtype):
  settings = OptimizerConfig(
    kind=kind,
    first_moment_dtype=first_moment_dtype,
    learning_rate=0.5,
    warmup_steps=2,
    weight_decay=0.0,
    clip_norm=10.0,
    decay="cosine",
  )
  target = block(**drawn(0, out=(1, 2, 4, 8)))
  params = jax.tree.map(np.zeros_like, target)

  def loss(params):
    return optax.tree.norm(optax.tree.sub(params, target), squared=True)

  optimizer = settings.make(NUM_STEPS)

  def step(carry, _):
    params, state = carry
    updates, state = optimizer.update(jax.grad(loss)(params), state, params)
    return (optax.apply_updates(params, updates), state), None

  start = (params, optimizer.init(params))
  (params, _), _ = jax.lax.scan(step, start, length=NUM_STEPS)
  # Measured at most 0.014, of 53.5.
  assert loss(params) < 0.15


def test_a_null_image_without_gradient_is_left_alone():
  """As PyTorch's AdamW skips parameters whose gradient is None."""
  settings = OptimizerConfig(learning_rate=0.1, warmup_steps=0)
  params = {"null_image": np.ones((2, 3), "f4"), "bias": np.ones(3, "f4")}
  grads = jax.tree.map(np.zeros_like, params)
  optimizer = settings.make(NUM_STEPS)
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
