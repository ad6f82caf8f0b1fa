"""Encoders of numpy rows: padded, on all devices, lossless in their dtype."""

import functools

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest

from ddit_jax.data.pixel_codec import PixelCodec
from ddit_jax.encoders.vae import AutoencoderConfig, autoencoder
from ddit_jax.experiment.write_cache import LocalEncoders
from tests.experiment import cached_run


@pytest.fixture(scope="module", params=["fsdp", "replicated"])
def encoders(request, cached_files):
  place = "model__encoder_placement"
  parts = (f"{place}__text_encoder", f"{place}__vae")
  run = cached_run.settings(
    *cached_files, **dict.fromkeys(parts, request.param)
  )
  weights = run.model.open_encoders()
  model = run.make_model(weights.tokenizer, weights)
  local = LocalEncoders(model, weights, rows_per_device=2)
  return local, model, weights


def on_one_device(weights, name):
  with ocp.PyTreeCheckpointer() as checkpointer:
    params = checkpointer.restore((weights.folder / name / "params").absolute())
  to_bfloat16 = jax.tree.map(lambda x: x.astype(ml_dtypes.bfloat16), params)
  return {"params": to_bfloat16}


def test_moments_are_the_autoencoders(encoders):
  local, model, weights = encoders
  assert local.num_rows == 2 * jax.device_count()
  rng = np.random.default_rng(0)
  pixels = rng.integers(0, 256, (5, 16, 16, 3), np.uint8)
  moments = np.asarray(local.moments(pixels))
  assert moments.shape == (local.num_rows, 4, 4, 32)
  np.testing.assert_array_equal(
    moments.astype(ml_dtypes.bfloat16).astype(np.float32), moments
  )
  encode = functools.partial(model.autoencoder.apply, method="encode")
  posterior = jax.jit(encode)(
    on_one_device(weights, "vae"), jnp.asarray(PixelCodec().encode(pixels))
  )
  expected = np.concatenate([posterior.mean, posterior.logvar], axis=-1)
  # Measured 0.04 of a standard deviation of 0.5: bfloat16 is rounded at other
  # places in a program of other shapes.
  np.testing.assert_allclose(moments[:5], expected, rtol=0, atol=0.1)


def test_features_are_the_text_encoders(encoders):
  local, model, weights = encoders
  tokens = np.arange(36, dtype=np.int32).reshape(3, 12)
  features = np.asarray(local.features(tokens))
  assert features.shape == (local.num_rows, 12, 24)
  assert features.dtype == ml_dtypes.bfloat16
  expected = jax.jit(model.text_encoder.apply)(
    on_one_device(weights, "text_encoder"), jnp.asarray(tokens)
  )
  # Measured 0; features have a standard deviation of 1.
  np.testing.assert_allclose(
    features[:3].astype(np.float32), np.float32(expected), rtol=0, atol=0.1
  )


def test_moments_are_lossless_where_xla_leaves_out_casts():
  """With weights known when compiling, it computes in float32 to the end."""
  config = AutoencoderConfig(
    block_widths=(8,), layers_per_block=1, num_groups=4
  )
  vae = autoencoder(config, dtype="bfloat16", parameter_dtype="bfloat16")
  variables = jax.jit(vae.init)(jax.random.key(3))

  @jax.jit
  def moments(pixels):
    scaled = PixelCodec().encode(pixels)
    return vae.apply(variables, scaled, method="encode").moments()

  pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
  jax.config.update("jax_disable_most_optimizations", False)
  try:
    found = np.asarray(moments(pixels))
  finally:
    jax.config.update("jax_disable_most_optimizations", True)
  kept = found.astype(ml_dtypes.bfloat16).astype(np.float32)
  np.testing.assert_array_equal(kept, found)
