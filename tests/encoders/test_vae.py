"""SD3's autoencoder against `diffusers`, forward and backward."""

import dataclasses

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from ddit_jax.encoders.vae import AutoencoderConfig, autoencoder
from tests.encoders import torch_weights

# Blocks that widen, keep and narrow; two groups and more.
CONFIG = AutoencoderConfig(
  latent_channels=4, block_widths=(8, 16, 16, 8), num_groups=4
)
SHALLOW = AutoencoderConfig(
  latent_channels=3, block_widths=(6, 12, 6), layers_per_block=1, num_groups=3
)
# (config, batch, height, width): square, wide with one row of latents, tall.
CASES = [
  (CONFIG, 2, 16, 16),
  (CONFIG, 1, 8, 40),
  (SHALLOW, 1, 20, 12),
]


def torch_vae(config: AutoencoderConfig, dtype=torch.float32):
  num_blocks = len(config.block_widths)
  torch.manual_seed(0)
  model = diffusers.AutoencoderKL(
    in_channels=config.image_channels,
    out_channels=config.image_channels,
    down_block_types=("DownEncoderBlock2D",) * num_blocks,
    up_block_types=("UpDecoderBlock2D",) * num_blocks,
    block_out_channels=config.block_widths,
    layers_per_block=config.layers_per_block,
    latent_channels=config.latent_channels,
    norm_num_groups=config.num_groups,
    use_quant_conv=False,
    use_post_quant_conv=False,
  )
  return torch_weights.randomise(model, 1).to(dtype)


def params_of(model, config):
  return torch_weights.vae_params(torch_weights.weights(model), config)


def normal(seed, *shape):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def images_of(config, batch, height, width):
  return np.tanh(normal(3, batch, height, width, config.image_channels))


def latents_of(config, batch, height, width):
  side = config.downsampling
  shape = (batch, height // side, width // side, config.latent_channels)
  return normal(4, *shape)


def method_of(vae, name):
  return jax.jit(lambda *inputs: vae.apply(*inputs, method=name))


def to_torch(channels_last):
  return torch.from_numpy(channels_last.transpose(0, 3, 1, 2).copy())


def from_torch(channels_first):
  return channels_first.detach().float().numpy().transpose(0, 2, 3, 1)


@pytest.mark.parametrize("config, batch, height, width", CASES)
def test_posterior_and_images_equal_diffusers(config, batch, height, width):
  model = torch_vae(config)
  images = images_of(config, batch, height, width)
  latents = latents_of(config, batch, height, width)
  with torch.no_grad():
    want = model.encode(to_torch(images)).latent_dist
    raw = to_torch(latents) / config.scale + config.shift
    want_images = model.decode(raw).sample
  vae, variables = autoencoder(config), {"params": params_of(model, config)}
  got = method_of(vae, "encode")(variables, images)
  # Measured 2e-6.
  error = torch_weights.largest_error
  assert error(got.mean, from_torch(want.mean)) < 2e-5
  assert error(got.logvar, from_torch(want.logvar)) < 2e-5
  got_images = method_of(vae, "decode")(variables, latents)
  assert error(got_images, from_torch(want_images)) < 2e-5


def test_gradients_equal_diffusers():
  config, shape = SHALLOW, (2, 8, 20)
  model = torch_vae(config)
  images, latents = images_of(config, *shape), latents_of(config, *shape)
  image_weight, mean_weight = (
    normal(5, *images.shape),
    normal(6, *latents.shape),
  )
  torch_images = to_torch(images).requires_grad_()
  torch_latents = to_torch(latents).requires_grad_()
  posterior = model.encode(torch_images).latent_dist
  decoded = model.decode(torch_latents / config.scale + config.shift).sample
  loss = (decoded * to_torch(image_weight)).sum()
  loss = loss + ((posterior.mean + posterior.std) * to_torch(mean_weight)).sum()
  loss.backward()
  vae = autoencoder(config)

  def our_loss(params, images, latents):
    variables = {"params": params}
    posterior = vae.apply(variables, images, method="encode")
    decoded = vae.apply(variables, latents, method="decode")
    z = posterior.at(jnp.ones_like(posterior.mean))
    return jnp.sum(decoded * image_weight) + jnp.sum(z * mean_weight)

  got = jax.jit(jax.grad(our_loss, argnums=(0, 1, 2)))(
    params_of(model, config), images, latents
  )
  want_params = torch_weights.vae_params(torch_weights.gradients(model), config)
  # The keys' bias cannot change a softmax: its gradient is rounding in both.
  for tree in (got[0], want_params):
    for half in ("encoder", "decoder"):
      qkv = tree[half]["middle"]["attention"]["qkv"]
      qkv["bias"] = np.delete(np.asarray(qkv["bias"]), 1, axis=0)
  # Measured 6e-6.
  error = torch_weights.largest_error
  assert error(got[0], want_params) < 5e-5
  assert error(got[1], from_torch(torch_images.grad)) < 5e-5
  assert error(got[2], from_torch(torch_latents.grad)) < 5e-5


def test_bfloat16_is_as_near_float32_as_in_pytorch():
  model, half = torch_vae(SHALLOW), torch_vae(SHALLOW, torch.bfloat16)
  vae = autoencoder(SHALLOW, dtype="bfloat16")
  variables = {"params": params_of(model, SHALLOW)}
  images, latents = images_of(*CASES[2]), latents_of(*CASES[2])
  raw = to_torch(latents) / SHALLOW.scale + SHALLOW.shift
  with torch.no_grad():
    want_mean = from_torch(model.encode(to_torch(images)).latent_dist.mean)
    want_images = from_torch(model.decode(raw).sample)
    half_mean = half.encode(to_torch(images).bfloat16()).latent_dist.mean
    half_images = half.decode(raw.bfloat16()).sample
  posterior = method_of(vae, "encode")(variables, images)
  got_images = method_of(vae, "decode")(variables, latents)
  assert posterior.mean.dtype == got_images.dtype == jnp.float32
  distance = torch_weights.relative_distance
  # Measured 0.008 to 0.016, PyTorch's too.
  for got, theirs, want in (
    (posterior.mean, half_mean, want_mean),
    (got_images, half_images, want_images),
  ):
    assert distance(got, want) < 0.03
    assert distance(got, want) < 1.5 * distance(from_torch(theirs), want)


def test_extreme_log_variances_are_clamped():
  model = torch_vae(SHALLOW)
  params = params_of(model, SHALLOW)
  bias = params["encoder"]["conv_out"]["bias"].copy()
  bias[3:] = [-1000.0, 0.0, 1000.0]
  params["encoder"]["conv_out"]["bias"] = bias
  images = images_of(*CASES[2])
  encode = method_of(autoencoder(SHALLOW), "encode")
  posterior = encode({"params": params}, images)
  assert (np.asarray(posterior.logvar[..., 0]) == -30).all()
  assert np.ptp(np.asarray(posterior.logvar[..., 1])) > 0
  assert (np.asarray(posterior.logvar[..., 2]) == 20).all()


def test_network_latents_are_shifted_then_scaled():
  config = AutoencoderConfig()
  latents = jnp.array([0.0609, 1.0609, 0.0]).reshape(1, 1, 1, 3)
  scaled = config.to_network(latents)
  np.testing.assert_allclose(
    scaled.ravel(), [0.0, 1.5305, -0.09320745], atol=1e-7
  )
  np.testing.assert_allclose(config.from_network(scaled), latents, atol=1e-7)


def test_a_call_decodes_the_mean():
  vae = autoencoder(SHALLOW)
  variables = {"params": params_of(torch_vae(SHALLOW), SHALLOW)}
  images = images_of(*CASES[2])
  mean = method_of(vae, "encode")(variables, images).mean
  want = method_of(vae, "decode")(variables, SHALLOW.to_network(mean))
  got = jax.jit(vae.apply)(variables, images)
  assert torch_weights.largest_error(got, want) < 1e-6


def test_full_size_has_83_819_683_parameters():
  vae = autoencoder(AutoencoderConfig())
  assert vae.num_parameters() == 83_819_683
  params = vae.abstract_variables()["params"]
  sizes = {
    half: sum(leaf.size for leaf in jax.tree.leaves(params[half]))
    for half in params
  }
  assert sizes == {"encoder": 34_274_208, "decoder": 49_545_475}


@pytest.mark.parametrize(
  "shape, method, message",
  [
    (
      (1, 20, 16, 3),
      "encode",
      "20 x 16 pixels .* both sides to multiples of 8",
    ),
    ((1, 16, 12, 3), "encode", "multiples of 8"),
    ((1, 16, 16, 4), "encode", r"takes \[batch, height, width, 3\]"),
    ((16, 16, 3), "encode", "images have shape"),
    ((1, 2, 2, 16), "decode", r"takes \[batch, rows, columns, 4\]"),
  ],
)
def test_other_shapes_are_refused(shape, method, message, unchecked_shapes):
  vae = autoencoder(CONFIG)
  variables = vae.abstract_variables()

  def call(variables):
    return vae.apply(variables, jnp.zeros(shape), method=method)

  with pytest.raises(ValueError, match=message):
    jax.eval_shape(call, variables)


def test_settings_that_cannot_work_are_refused():
  with pytest.raises(ValueError, match="layers_per_block must be in 1 to 1024"):
    dataclasses.replace(CONFIG, layers_per_block=10**9)
  with pytest.raises(ValueError, match="must be 1 to 16 multiples"):
    dataclasses.replace(CONFIG, block_widths=CONFIG.block_widths * 9)
  with pytest.raises(ValueError, match="multiples of num_groups 5"):
    dataclasses.replace(CONFIG, num_groups=5)
  with pytest.raises(ValueError, match="use bfloat16 or float32"):
    autoencoder(CONFIG, dtype="float16")
