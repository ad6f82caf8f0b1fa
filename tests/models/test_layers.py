"""Norms against loops; linear maps carry names and float32 parameters."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddit_jax.models.layers import RMSNorm, layer_norm, linear
from tests.models import oracles


def normals(*shape, seed=0):
  return jnp.float32(np.random.default_rng(seed).normal(size=shape))


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_layer_norm_equals_loops(scale):
  x = scale * normals(2, 3, 8) + scale
  # Measured 3e-7 at values up to 2; small scales show epsilon.
  want = oracles.layer_norm(np.float64(x))
  np.testing.assert_allclose(layer_norm(x), want, atol=4e-6)


def test_layer_norm_of_a_constant_row_is_zero():
  assert (layer_norm(jnp.full((1, 1, 4), 7.0)) == 0).all()


def test_rms_norm_equals_loops():
  x, scale = normals(2, 3, 4, 8), normals(8, seed=1)
  got = RMSNorm("head_dim").apply({"params": {"scale": scale}}, x)
  want = oracles.rms_norm(np.float64(x), np.float64(scale))
  # Measured 2e-7.
  np.testing.assert_allclose(got, want, atol=5e-6)


def rms_of(x):
  """`RMSNorm` with scale 1."""
  params = {"params": {"scale": jnp.ones(x.shape[-1])}}
  return RMSNorm("width").apply(params, x)


@pytest.mark.parametrize(
  ("norm", "oracle"),
  [
    (layer_norm, oracles.layer_norm),
    (rms_of, lambda x: oracles.rms_norm(x, np.ones(x.shape[-1]))),
  ],
)
def test_norms_of_half_precision_take_statistics_in_float32(norm, oracle):
  # A mean far above the spread: bfloat16 statistics would be off by a third.
  x = jnp.asarray(256 + 2.0 * np.arange(16).reshape(1, 1, 16), jnp.bfloat16)
  got = norm(x)
  assert got.dtype == jnp.bfloat16
  # Measured 0.0031; bfloat16 rounds the result by up to 2 ** -8 = 0.0039.
  want = oracle(np.asarray(x, np.float64))
  np.testing.assert_allclose(got.astype("f4"), want, rtol=2**-8)


def test_a_linear_maps_kernel_and_bias_carry_axis_names():
  module = linear((2, 6), ("embed", "rows", "width"), name="x")
  boxed = module.init(jax.random.key(0), jnp.ones((1, 4)))["params"]
  assert boxed["kernel"].names == ("embed", "rows", "width")
  assert boxed["bias"].names == ("rows", "width")
  params = nn.unbox(boxed)
  assert params["kernel"].shape == (4, 2, 6)
  assert params["bias"].shape == (2, 6)
  assert not params["bias"].any()


def test_a_linear_map_over_two_dimensions_is_named_inputs_first():
  module = linear(6, ("heads", "head_dim", "embed"), name="x", axis=(-2, -1))
  x = normals(5, 2, 3)
  boxed = module.init(jax.random.key(0), x)["params"]
  assert boxed["kernel"].names == ("heads", "head_dim", "embed")
  assert boxed["bias"].names == ("embed",)
  kernel = np.asarray(nn.unbox(boxed)["kernel"])
  want = np.zeros((5, 6))
  for i, h, d in np.ndindex(5, 2, 3):
    want[i] += x[i, h, d] * kernel[h, d]
  # Measured 1.9e-7.
  np.testing.assert_allclose(
    module.apply({"params": nn.unbox(boxed)}, x), want, atol=2e-6
  )


def test_a_half_precision_linear_map_keeps_float32_parameters():
  module = linear(4, ("channels", "embed"), name="x", dtype=jnp.bfloat16)
  params = nn.unbox(module.init(jax.random.key(0), jnp.ones((1, 4))))
  assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype("float32")}
  assert module.apply(params, jnp.ones((1, 4))).dtype == jnp.bfloat16


def test_the_default_kernel_has_variance_one_over_inputs():
  module = linear(400, ("channels", "embed"), name="x")
  boxed = module.init(jax.random.key(0), jnp.ones((1, 100)))["params"]
  kernel = nn.unbox(boxed)["kernel"]
  # 40,000 draws: the standard error of the variance is 0.7 %.
  assert float(kernel.var()) == pytest.approx(1 / 100, rel=0.03)
