"""A block by hand in float64; fresh blocks are what their gates say."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddit_jax.models.config import MMDiTConfig
from ddit_jax.models.joint_block import JointBlock, Mlp, Modulation
from tests.models import oracles

CONFIG = MMDiTConfig(
  depth=1, width=12, num_heads=3, context_dim=8, vocab_size=0, max_grid=4
)


def inputs(seed=0):
  """(image tokens, text tokens), time vector."""
  draw = np.random.default_rng(seed)
  shapes = ((2, 6, 12), (2, 4, 12), (2, 12))
  image, text, vector = (jnp.float32(draw.normal(size=s)) for s in shapes)
  return (image, text), vector


def fresh(block, seed=0):
  streams, vector = inputs()
  boxed = jax.jit(block.init)(jax.random.key(seed), streams, vector)
  return nn.unbox(boxed)["params"]


@pytest.mark.parametrize("has_qk_norm", [False, True])
@pytest.mark.parametrize("is_text_full", [True, False])
def test_a_block_equals_the_one_by_hand(has_qk_norm, is_text_full):
  config = dataclasses.replace(CONFIG, has_qk_norm=has_qk_norm)
  block = JointBlock(config, is_text_full)
  params = oracles.randomised(fresh(block), seed=1)
  streams, vector = inputs()
  got, _ = jax.jit(block.apply)({"params": params}, streams, vector)
  want = oracles.joint_block(
    oracles.in_float64(params),
    *(np.float64(x) for x in (*streams, vector)),
    is_text_full=is_text_full,
  )
  for ours, theirs in zip(got, want, strict=True):
    # Measured 2.5e-6 at values up to 13.
    np.testing.assert_allclose(ours, theirs, atol=4e-5)


def test_the_last_text_stream_of_sd3_passes_its_tokens_on():
  block = JointBlock(CONFIG, False)
  params = oracles.randomised(fresh(block), seed=1)
  assert sorted(params["text"]) == ["modulation", "qkv"]
  assert params["text"]["modulation"]["project"]["bias"].shape == (2, 12)
  streams, vector = inputs()
  (_, text), _ = jax.jit(block.apply)({"params": params}, streams, vector)
  np.testing.assert_array_equal(text, streams[1])


def test_a_fresh_block_with_closed_gates_is_the_identity():
  block = JointBlock(CONFIG)
  streams, vector = inputs()
  got, _ = block.apply({"params": fresh(block)}, streams, vector)
  for ours, theirs in zip(got, streams, strict=True):
    np.testing.assert_array_equal(ours, theirs)


def test_a_fresh_block_with_open_gates_is_a_plain_transformer_block():
  config = dataclasses.replace(CONFIG, gate_init=1.0)
  block = JointBlock(config)
  params = fresh(block)
  for name in ("image", "text"):
    bias = np.asarray(params[name]["modulation"]["project"]["bias"])
    # Rows: shift, scale, gate of the attention, then of the MLP.
    np.testing.assert_array_equal(bias[:, 0], [0, 0, 1, 0, 0, 1])
  streams, vector = inputs()
  apply = jax.jit(block.apply)
  got, _ = apply({"params": params}, streams, vector)
  other, _ = apply({"params": params}, streams, 5 * vector)
  assert np.abs(np.asarray(got[0]) - streams[0]).max() > 0.1
  np.testing.assert_array_equal(got[0], other[0])


def test_each_stream_sees_the_other_through_attention():
  block = JointBlock(CONFIG)
  params = oracles.randomised(fresh(block), seed=1)
  (image, text), vector = inputs()
  apply = jax.jit(block.apply)
  before, _ = apply({"params": params}, (image, text), vector)
  after, _ = apply({"params": params}, (image, text + 1), vector)
  # LayerNorm removes a common shift, so change one feature only.
  text = text.at[0, 0, 0].add(1)
  changed, _ = apply({"params": params}, (image, text), vector)
  assert np.abs(changed[0][0] - before[0][0]).max() > 1e-3
  np.testing.assert_array_equal(changed[0][1], before[0][1])
  # Measured 1.7e-6: the shift is gone from the image's view.
  np.testing.assert_allclose(after[0], before[0], atol=2e-5)


def test_modulation_rows_equal_hand_written_ones():
  module = Modulation(rows=2, width=5)
  _, vector = inputs()
  params = nn.unbox(module.init(jax.random.key(0), vector))["params"]
  assert not any(np.any(x) for x in jax.tree.leaves(params))
  params = oracles.randomised(params, seed=2)
  got = module.apply({"params": params}, vector)
  want = oracles.modulation(oracles.in_float64(params), np.float64(vector))
  # Measured 5e-8.
  np.testing.assert_allclose(np.stack(got), np.stack(want), atol=3e-6)


def test_the_mlp_uses_the_tanh_approximation():
  params = {
    "in": {"kernel": np.eye(4, dtype="f4"), "bias": np.zeros(4, "f4")},
    "out": {"kernel": np.eye(4, dtype="f4"), "bias": np.zeros(4, "f4")},
  }
  x = jnp.array([[[-2.5, -0.5, 0.5, 2.5]]])
  got = Mlp(width=4, hidden=4).apply({"params": params}, x)
  # Measured 3e-8.
  np.testing.assert_allclose(got, oracles.gelu(np.float64(x)), atol=2e-6)
  exact = jax.nn.gelu(x, approximate=False)
  assert np.abs(np.asarray(exact) - got).max() > 1e-4


def test_half_precision_stays_near_float32():
  full, half = JointBlock(CONFIG), JointBlock(CONFIG, dtype=jnp.bfloat16)
  params = oracles.randomised(fresh(full), seed=1, scale=0.2)
  streams, vector = inputs()
  halves = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), streams)
  got, _ = half.apply({"params": params}, halves, jnp.bfloat16(vector))
  want, _ = full.apply({"params": params}, streams, vector)
  for ours, theirs in zip(got, want, strict=True):
    assert ours.dtype == jnp.bfloat16
    error = np.linalg.norm(np.asarray(ours, np.float32) - theirs)
    # Measured 0.005.
    assert error < 0.02 * np.linalg.norm(theirs)
