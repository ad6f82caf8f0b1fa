"""The encoders' operations beside XLA's count and published figures."""

import functools

import jax
import pytest

from ddit_jax.encoders.flops import t5_flops, vae_encoder_flops
from ddit_jax.encoders.t5 import T5_SIZES, T5Config, t5_encoder
from ddit_jax.encoders.vae import AutoencoderConfig, autoencoder
from ddit_jax.planning.traced_flops import traced_flops

# One block, so that XLA, which counts a scan's body once, sees all.
SMALL_T5 = T5Config(
  depth=1, width=256, num_heads=4, head_dim=64, mlp_width=512, vocab_size=100
)
SMALL_VAE = AutoencoderConfig(block_widths=(64, 128), layers_per_block=1)


def xla_flops(function, *arguments):
  return jax.jit(function).lower(*arguments).compile().cost_analysis()["flops"]


def encode(config):
  """(variables, images) -> posterior."""
  return functools.partial(autoencoder(config).apply, method="encode")


def images(side):
  return jax.ShapeDtypeStruct((1, side, side, 3), "f4")


@pytest.mark.parametrize(("length", "tera"), [(256, 2.40), (64, 0.6)])
def test_t5_xxl_costs_what_is_known(length, tera):
  flops = t5_flops(T5_SIZES["xxl"], length)
  # The figures known are rounded to two digits and to one.
  assert flops.forward / 1e12 == pytest.approx(tera, rel=0.01)


@pytest.mark.parametrize("name", sorted(T5_SIZES))
def test_traced_t5_has_exactly_these_products(name):
  encoder = t5_encoder(T5_SIZES[name])
  traced = jax.make_jaxpr(encoder.apply)(
    encoder.abstract_variables(), jax.ShapeDtypeStruct((1, 40), "i4")
  )
  assert traced_flops(traced.jaxpr) == t5_flops(T5_SIZES[name], 40).forward


def test_xla_counts_one_percent_more_in_t5():
  encoder = t5_encoder(SMALL_T5)
  ids = jax.ShapeDtypeStruct((1, 64), "i4")
  counted = xla_flops(encoder.apply, encoder.abstract_variables(), ids)
  # Measured 1.0075: norms, activations and the softmax.
  assert 1 < counted / t5_flops(SMALL_T5, 64).forward < 1.02


def test_a_gradient_through_frozen_t5_costs_twice_its_weights():
  """What training the mask's row of the embedding table asks for."""
  encoder = t5_encoder(SMALL_T5)

  def gradient(variables, embedded):
    def loss(x):
      features = encoder.apply(variables, x, method="encode_embedded")
      return (features**2).sum()

    return jax.grad(loss)(embedded)

  arguments = (
    encoder.abstract_variables(),
    jax.ShapeDtypeStruct((1, 64, 256), "f4"),
  )
  ours = t5_flops(SMALL_T5, 64).passed_through
  assert traced_flops(jax.make_jaxpr(gradient)(*arguments).jaxpr) == ours
  # Measured 1.0110: the elementwise work.
  assert 1 < xla_flops(gradient, *arguments) / ours < 1.02


@pytest.mark.parametrize("config", [AutoencoderConfig(), SMALL_VAE])
@pytest.mark.parametrize("side", [64, 256])
def test_the_traced_autoencoder_has_exactly_these_products(config, side):
  variables = autoencoder(config).abstract_variables()
  traced = jax.make_jaxpr(encode(config))(variables, images(side))
  assert traced_flops(traced.jaxpr) == vae_encoder_flops(config, side).forward


def test_xla_leaves_out_the_padding_of_convolutions():
  variables = autoencoder(SMALL_VAE).abstract_variables()
  shares = [
    xla_flops(encode(SMALL_VAE), variables, images(side))
    / vae_encoder_flops(SMALL_VAE, side).forward
    for side in (32, 64)
  ]
  # Measured 0.946 and 0.981: the border's share falls with the side, and
  # about 1 % of elementwise work comes on top.
  assert 0.93 < shares[0] < shares[1] < 1
  assert shares[1] > 0.97


def test_a_side_that_cannot_be_encoded_is_refused():
  with pytest.raises(ValueError, match="choose a multiple of 8"):
    vae_encoder_flops(AutoencoderConfig(), 100)
