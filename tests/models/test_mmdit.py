"""The whole network against float64 numpy, and what must not change it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddit_jax.models.config import MMDiTConfig
from ddit_jax.models.mmdit import Execution
from ddit_jax.models.module import Network
from tests.models import oracles

# Tokens of its own, q/k norm: the from-scratch variant.
OWN_TOKENS = MMDiTConfig(
  depth=2,
  width=16,
  num_heads=2,
  latent_channels=3,
  max_grid=5,
  base_grid=4,
  context_dim=None,
  max_text_length=6,
  vocab_size=11,
  num_null_image_tokens=3,
  has_qk_norm=True,
)
# A text encoder's features: D-DiT's variant.
FEATURES = dataclasses.replace(OWN_TOKENS, context_dim=7, has_qk_norm=False)
# SD3's: a pooled vector, a shorter last block, no text head, no null image.
PLAIN_SD3 = dataclasses.replace(
  FEATURES,
  vocab_size=0,
  pooled_dim=9,
  num_null_image_tokens=0,
  is_last_text_block_full=False,
)
CONFIGS = {"own": OWN_TOKENS, "features": FEATURES, "sd3": PLAIN_SD3}


@functools.cache
def variables_of(config: MMDiTConfig):
  """Random weights everywhere, so that no zero initialiser hides."""
  variables = Network(config).abstract_variables()
  return oracles.randomised(variables, seed=1)


def inputs_of(config: MMDiTConfig, *, seed=0, length=4, shape=(4, 8)):
  """(latents, text, sigma, pooled) of a batch of two."""
  draw = np.random.default_rng(seed)
  latents = draw.normal(size=(2, *shape, config.latent_channels)).astype("f4")
  if config.context_dim is None:
    text = draw.integers(0, config.vocab_size, (2, length)).astype("i4")
  else:
    text = draw.normal(size=(2, length, config.context_dim)).astype("f4")
  sigma = np.array([0.0, 0.03], np.float32)
  pooled = None
  if config.pooled_dim:
    pooled = draw.normal(size=(2, config.pooled_dim)).astype("f4")
  return jax.tree.map(jnp.asarray, (latents, text, sigma, pooled))


@functools.cache
def jitted(config: MMDiTConfig, execution: Execution = Execution()):
  return jax.jit(Network(config, execution).apply)


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_the_network_equals_float64_numpy(name):
  config = CONFIGS[name]
  variables, inputs = variables_of(config), inputs_of(config)
  got = jitted(config)(variables, *inputs)
  velocity, logits = oracles.mmdit(variables, config, *inputs)
  # Measured 5e-5 at values up to 12: float32 in the time's sinusoid.
  np.testing.assert_allclose(got.velocity, velocity, atol=2e-4)
  assert (got.logits is None) == (logits is None)
  if logits is not None:
    # Measured 1.3e-6.
    np.testing.assert_allclose(got.logits, logits, atol=3e-5)


def test_the_null_image_stands_in_for_a_missing_one():
  variables = variables_of(OWN_TOKENS)
  _, text, sigma, _ = inputs_of(OWN_TOKENS)
  got = jitted(OWN_TOKENS)(variables, None, text, sigma)
  _, logits = oracles.mmdit(variables, OWN_TOKENS, None, text, sigma)
  assert got.velocity is None
  # Measured 8e-7.
  np.testing.assert_allclose(got.logits, logits, atol=3e-5)


@pytest.mark.parametrize("has_image", [None, jnp.array([True, False])])
def test_one_block_needs_an_image_once_for_any_text(has_image):
  # What the text attends to in the first block is of the image alone.
  config = dataclasses.replace(OWN_TOKENS, depth=1)
  variables, apply = variables_of(config), Network(config).apply
  latents, text, sigma, _ = inputs_of(config)
  given = functools.partial(apply, variables, latents, has_image=has_image)
  kept = given(text, sigma, keeps_image_keys=True).image_keys
  other = inputs_of(config, seed=3)[1]
  assert (other != text).any()
  got, want = given(other, sigma, image_keys=kept), given(other, sigma)
  assert got.velocity is None and want.image_keys is None
  # Float32's rounding, at logits of order 1.
  np.testing.assert_allclose(got.logits, want.logits, atol=1e-5)


def test_a_kept_image_has_seen_the_text_of_its_call():
  variables, apply = variables_of(FEATURES), Network(FEATURES).apply
  latents, text, sigma, _ = inputs_of(FEATURES)
  seen = apply(variables, latents, text, sigma, keeps_image_keys=True)
  ask = functools.partial(
    apply, variables, latents, sigma=sigma, image_keys=seen.image_keys
  )
  np.testing.assert_allclose(ask(text).logits, seen.logits, atol=1e-5)
  other = inputs_of(FEATURES, seed=3)[1]
  fresh = apply(variables, latents, other, sigma)
  assert np.abs(ask(other).logits - fresh.logits).max() > 1e-3


def test_the_pooled_branch_can_be_left_out():
  variables, inputs = variables_of(PLAIN_SD3), inputs_of(PLAIN_SD3)
  got = jitted(PLAIN_SD3)(variables, *inputs[:3])
  velocity, _ = oracles.mmdit(variables, PLAIN_SD3, *inputs[:3])
  # Measured 2e-5 at values up to 11.
  np.testing.assert_allclose(got.velocity, velocity, atol=2e-4)


def error_sum(execution, params, config=OWN_TOKENS, dtype="f4"):
  """A scalar in which both heads matter, and its weights."""
  latents, text, sigma, _ = inputs_of(config)
  variables = variables_of(config) | {"params": params}
  prediction = Network(config, execution).apply(variables, latents, text, sigma)
  draw = np.random.default_rng(9)
  weights = [
    draw.normal(size=x.shape).astype(dtype)
    for x in (prediction.velocity, prediction.logits)
  ]
  return sum(
    (w * x.astype(jnp.float32)).sum()
    for w, x in zip(
      weights, (prediction.velocity, prediction.logits), strict=True
    )
  )


@functools.cache
def value_and_gradients(execution: Execution):
  function = jax.jit(
    jax.value_and_grad(functools.partial(error_sum, execution))
  )
  return function(variables_of(OWN_TOKENS)["params"])


def test_gradients_equal_finite_differences_of_the_float64_network(
  full_optimisation,
):
  _, gradients = value_and_gradients.__wrapped__(Execution())
  params = variables_of(OWN_TOKENS)["params"]
  latents, text, sigma, _ = inputs_of(OWN_TOKENS)
  draw = np.random.default_rng(9)
  weights = [
    draw.normal(size=s).astype("f4") for s in (latents.shape, (2, 4, 11))
  ]

  def value(shift, direction):
    moved = jax.tree.map(
      lambda p, d: p.astype(np.float64) + shift * d, params, direction
    )
    variables = variables_of(OWN_TOKENS) | {"params": moved}
    outputs = oracles.mmdit(variables, OWN_TOKENS, latents, text, sigma)
    return sum((w * x).sum() for w, x in zip(weights, outputs, strict=True))

  for part in ("blocks", "image_head", "token_embedding", "time_embedding"):
    direction = jax.tree.map(np.zeros_like, params)
    direction[part] = oracles.randomised(params[part], seed=5, scale=1.0)
    step = 1e-5
    slope = (value(step, direction) - value(-step, direction)) / (2 * step)
    ours = sum(
      np.vdot(np.asarray(g, np.float64), d)
      for g, d in zip(
        jax.tree.leaves(gradients), jax.tree.leaves(direction), strict=True
      )
    )
    # Measured relative errors up to 1e-5.
    assert ours == pytest.approx(slope, rel=5e-5), part


def test_the_null_image_has_no_gradient_while_there_are_images():
  _, gradients = value_and_gradients(Execution())
  assert not np.any(gradients["null_image"])
  assert all(
    np.any(leaf)
    for name, tree in gradients.items()
    if name != "null_image"
    for leaf in jax.tree.leaves(tree)
  )


@pytest.mark.parametrize(
  "execution",
  [
    Execution(remat="full"),
    Execution(remat="dots", scan_unroll=2),
    Execution(scan_unroll=100),
  ],
)
def test_remat_and_unrolling_change_nothing(execution):
  plain_value, plain = value_and_gradients(Execution())
  value, gradients = value_and_gradients(execution)
  # Measured 1.1e-6: the compiler fuses differently.
  assert float(value) == pytest.approx(float(plain_value), rel=1e-5)
  for ours, theirs in zip(
    jax.tree.leaves(gradients), jax.tree.leaves(plain), strict=True
  ):
    error = np.linalg.norm(ours - theirs)
    # Measured 1.5e-6.
    assert error <= 2e-5 * np.linalg.norm(theirs)


@pytest.mark.parametrize("remat", ["none", "dots", "full"])
def test_remat_policies_save_as_much_as_they_say(remat):
  execution = Execution(remat=remat)
  params = variables_of(OWN_TOKENS)["params"]
  differentiate = jax.grad(functools.partial(error_sum, execution))
  text = str(jax.make_jaxpr(differentiate)(params))
  # "none" never recomputes; the others mark what is recomputed.
  assert ("remat" in text or "checkpoint" in text) == (remat != "none")


def test_half_precision_stays_near_float32():
  variables, inputs = variables_of(OWN_TOKENS), inputs_of(OWN_TOKENS)
  full = jitted(OWN_TOKENS)(variables, *inputs)
  half = jitted(OWN_TOKENS, Execution(dtype="bfloat16"))(variables, *inputs)
  for ours, theirs in (
    (half.velocity, full.velocity),
    (half.logits, full.logits),
  ):
    assert ours.dtype == jnp.bfloat16
    error = np.linalg.norm(np.asarray(ours, np.float32) - theirs)
    # Measured 0.013.
    assert error < 0.05 * np.linalg.norm(theirs)


def test_examples_of_a_batch_do_not_see_each_other():
  variables, inputs = variables_of(OWN_TOKENS), inputs_of(OWN_TOKENS)
  apply = jitted(OWN_TOKENS)
  before = apply(variables, *inputs)
  latents, text, sigma, _ = inputs
  latents = latents.at[1].add(1)
  text = text.at[1].set((text[1] + 1) % 11)
  after = apply(variables, latents, text, sigma)
  np.testing.assert_array_equal(after.velocity[0], before.velocity[0])
  np.testing.assert_array_equal(after.logits[0], before.logits[0])
  assert np.abs(after.logits[1] - before.logits[1]).max() > 1e-3


def test_word_order_matters_only_with_a_position_table():
  apply = {name: jitted(CONFIGS[name]) for name in ("own", "features")}
  for name, config in (("own", OWN_TOKENS), ("features", FEATURES)):
    variables = variables_of(config)
    latents, text, sigma, _ = inputs_of(config)
    forward = apply[name](variables, latents, text, sigma).logits
    backward = apply[name](variables, latents, text[:, ::-1], sigma).logits
    gap = np.abs(np.asarray(forward)[:, ::-1] - backward).max()
    # Measured 4e-7 without the table, 0.33 with it.
    assert gap > 0.1 if name == "own" else gap < 3e-5


@pytest.mark.parametrize(
  ("config", "change", "message"),
  [
    (OWN_TOKENS, {"latents": jnp.zeros((2, 4, 4, 5))}, "5 channels"),
    (OWN_TOKENS, {"latents": jnp.zeros((2, 5, 4, 3))}, "5 x 4 cannot"),
    (OWN_TOKENS, {"latents": jnp.zeros((2, 12, 4, 3))}, "6 x 2 patches"),
    (OWN_TOKENS, {"text": jnp.zeros((2, 7), "i4")}, "7 tokens"),
    (OWN_TOKENS, {"text": jnp.zeros((2, 4))}, "dtype float32"),
    (OWN_TOKENS, {"pooled": jnp.zeros((2, 9))}, "no pooled-text branch"),
    (FEATURES, {"text": jnp.zeros((2, 4, 6))}, r"\(2, 4, 6\).*7\]"),
    (PLAIN_SD3, {"latents": None}, "no null image"),
  ],
)
def test_inputs_that_do_not_fit_are_refused(
  config, change, message, unchecked_shapes
):
  names = ("latents", "text", "sigma", "pooled")
  inputs = dict(zip(names, inputs_of(config), strict=True)) | change
  with pytest.raises(ValueError, match=message):
    jax.eval_shape(
      Network(config).apply,
      variables_of(config),
      *(inputs[name] for name in names),
    )


def test_impossible_execution_is_refused():
  with pytest.raises(ValueError, match="scan_unroll must be positive: 0"):
    Execution(scan_unroll=0)


@pytest.mark.parametrize("name", ["own", "features"])
def test_rows_without_an_image_are_as_if_there_were_no_latents(name):
  config = CONFIGS[name]
  variables = variables_of(config)
  latents, text, sigma, _ = inputs_of(config)
  sigma = jnp.zeros_like(sigma)
  has_image = jnp.array([True, False])
  got = jitted(config)(variables, latents, text, sigma, None, has_image)
  with_image = jitted(config)(variables, latents, text, sigma)
  without = jitted(config)(variables, None, text, sigma)
  # Measured 5e-7: sums of other lengths.
  np.testing.assert_allclose(got.logits[0], with_image.logits[0], atol=5e-6)
  np.testing.assert_allclose(got.logits[1], without.logits[1], atol=5e-6)
  np.testing.assert_allclose(got.velocity[0], with_image.velocity[0], atol=2e-5)
  assert np.abs(got.logits[1] - with_image.logits[1]).max() > 0.01


@pytest.mark.parametrize("name", ["features", "sd3"])
def test_a_missing_image_needs_a_null_image_that_fits(name):
  config = CONFIGS[name]
  latents, text, sigma, pooled = inputs_of(config, shape=(2, 4))
  has_image = jnp.array([True, False])
  with pytest.raises(ValueError, match="needs a null image of at most 2 tok"):
    Network(config).apply(
      variables_of(config), latents, text, sigma, pooled, has_image
    )


def test_a_skipped_block_is_as_if_the_network_had_none():
  config = OWN_TOKENS
  variables, (latents, text, sigma, _) = (
    variables_of(config),
    inputs_of(config),
  )
  apply = Network(config).apply
  rows = jnp.array([True, False])
  got = apply(
    variables, latents, text, sigma, skip_layers=(0,), is_skipping=rows
  )
  params = variables["params"]
  rest = jax.tree.map(lambda rows: rows[1:], params["blocks"])
  short = Network(dataclasses.replace(config, depth=1)).apply(
    variables | {"params": params | {"blocks": rest}}, latents, text, sigma
  )
  whole = apply(variables, latents, text, sigma)
  for row, want in enumerate((short, whole)):
    for name in ("velocity", "logits"):
      pair = getattr(got, name)[row], getattr(want, name)[row]
      # Measured 0.
      np.testing.assert_allclose(*pair, atol=1e-5)


def test_a_residual_stands_for_the_blocks():
  variables, inputs = variables_of(PLAIN_SD3), inputs_of(PLAIN_SD3)
  apply = Network(PLAIN_SD3).apply
  want = apply(variables, *inputs)
  got = apply(variables, *inputs, image_residual=want.image_residual)
  assert got.logits is None
  # Measured 1e-6.
  np.testing.assert_allclose(got.velocity, want.velocity, atol=1e-5)


@pytest.mark.parametrize("config", [OWN_TOKENS, PLAIN_SD3])
def test_the_first_blocks_give_the_tokens_that_the_others_would_take(config):
  """Leaving out the later blocks gives the same image tokens."""
  variables, inputs = variables_of(config), inputs_of(config)[:3]
  skipped = Network(config).apply(
    variables,
    *inputs,
    skip_layers=tuple(range(1, config.depth)),
    is_skipping=jnp.ones(len(inputs[0]), bool),
  )
  part = Network(config.first_blocks(1))
  needed = part.abstract_variables()["params"]
  params = {k: v for k, v in variables["params"].items() if k in needed}
  params["blocks"] = jax.tree.map(lambda rows: rows[:1], params["blocks"])
  read = part.apply(variables | {"params": params}, *inputs)
  assert read.velocity is None and read.logits is None
  # Measured 0.
  np.testing.assert_allclose(read.image_hidden, skipped.image_hidden, atol=1e-5)
  with pytest.raises(ValueError, match="cannot be read: this network's are"):
    config.first_blocks(config.depth + 1)
