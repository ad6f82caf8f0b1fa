"""The autoencoder's layers in cases worked out by hand."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ddit_jax.encoders.vae import (
  PixelAttention,
  ResnetBlock,
  Stage,
  group_norm,
)


def zero_variables(module, x):
  """All parameters of the module, as zeros."""
  shapes = nn.unbox(jax.eval_shape(module.init, jax.random.key(0), x))
  return jax.tree.map(lambda leaf: np.zeros(leaf.shape, "f4"), shapes)


def images(*shape):
  return jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)


def test_downsampling_pads_below_and_to_the_right():
  x = images(1, 4, 6, 1)
  block = Stage(width=1, num_layers=0, num_groups=1, resample="down")
  variables = zero_variables(block, x)
  # A kernel that copies its lower right corner.
  variables["params"]["downsample"]["kernel"][2, 2] = 1
  padded = np.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
  want = padded[:, 2::2, 2::2]
  np.testing.assert_array_equal(block.apply(variables, x), want)
  assert want.shape == (1, 2, 3, 1) and (want[:, -1] == 0).all()


def test_upsampling_doubles_pixels():
  x = images(2, 2, 3, 1)
  block = Stage(width=1, num_layers=0, num_groups=1, resample="up")
  variables = zero_variables(block, x)
  variables["params"]["upsample"]["kernel"][1, 1] = 1
  want = np.kron(x, np.ones((1, 2, 2, 1)))
  np.testing.assert_array_equal(block.apply(variables, x), want)


def test_attention_with_equal_scores_adds_the_mean_of_normed_pixels():
  x = images(2, 3, 5, 4)
  block = PixelAttention(num_groups=2)
  variables = zero_variables(block, x)
  params = variables["params"]
  params["norm"]["scale"][:] = 1
  params["qkv"]["kernel"][:, 2] = np.eye(4)
  params["out"]["kernel"][:] = np.eye(4)
  groups = np.asarray(x).reshape(2, 15, 2, 2)
  deviation = groups.std(axis=(1, 3), keepdims=True)
  normed = (groups - groups.mean(axis=(1, 3), keepdims=True)) / deviation
  want = x + normed.reshape(2, 15, 4).mean(1)[:, None, None]
  # Measured 2e-7, with epsilon 1e-6 in the norm.
  np.testing.assert_allclose(block.apply(variables, x), want, atol=5e-6)


def test_a_residual_block_without_weights_is_its_shortcut():
  x = images(1, 2, 2, 4)
  same = ResnetBlock(width=4, num_groups=2)
  np.testing.assert_array_equal(same.apply(zero_variables(same, x), x), x)
  wider = ResnetBlock(width=6, num_groups=2)
  variables = zero_variables(wider, x)
  variables["params"]["shortcut"]["kernel"][0, 0] = np.eye(4, 6)
  want = np.pad(x, ((0, 0), (0, 0), (0, 0), (0, 2)))
  np.testing.assert_array_equal(wider.apply(variables, x), want)


def test_group_norm_keeps_its_digits_where_the_mean_is_large():
  x = images(1, 8, 8, 4) + 1000
  norm = group_norm(2, name=None, dtype=jnp.float32)
  got = norm.apply(norm.init(jax.random.key(0), x), x)
  groups = np.asarray(x, np.float64).reshape(64, 2, 2)
  centred = groups - groups.mean(axis=(0, 2), keepdims=True)
  variance = np.square(centred).mean(axis=(0, 2), keepdims=True)
  want = (centred / np.sqrt(variance + 1e-6)).reshape(x.shape)
  # Measured 6e-5: the mean's own rounding; E[x^2] - E[x]^2 is off by 0.05.
  np.testing.assert_allclose(got, want, atol=3e-4)
