"""SD3's conditions are packed and taken apart without loss."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddit_jax.encoders.clip import clip_text_encoder, join_context
from ddit_jax.models.module import Network
from tests.pipelines import sd3_files


@pytest.fixture(scope="module")
def model():
  return sd3_files.model()


@pytest.fixture(scope="module")
def variables(model):
  return sd3_files.variables(model)


@pytest.fixture(scope="module")
def ids():
  random = np.random.default_rng(1)
  rows = {
    name: random.integers(0, 512, (2, 77), np.int32)
    for name in ("clip_l", "clip_g")
  }
  rows["text_encoder"] = random.integers(0, 12, (2, 10), np.int32)
  return rows


@pytest.fixture(scope="module")
def joined(model, variables, ids):
  """(context, pooled vector), encoder by encoder."""
  features = {
    name: jax.jit(model.parts()[name].apply)(variables[name], ids[name])
    for name in ids
  }
  return join_context(
    features["clip_l"], features["clip_g"], features["text_encoder"]
  )


def test_texts_are_read_by_all_three_encoders(model, variables, ids, joined):
  got = jax.jit(model.encode_text)(variables, ids)
  for array, want in zip(got, joined, strict=True):
    # Measured 4e-7 of numbers up to 4.
    np.testing.assert_allclose(array, want, atol=1e-5)
  assert got[0].shape == (2, 77 + 10, sd3_files.CONTEXT)
  assert got[1].shape == (2, sd3_files.POOLED)


def test_the_network_sees_context_and_pooled_vector(
  model, variables, ids, joined
):
  latents = np.random.default_rng(2).normal(size=(2, 8, 4, 4)).astype("f4")
  sigma = np.array([0.3, 0.9], np.float32)
  condition = jax.jit(model.condition)(variables, ids)
  # 40 pooled features take two rows of 24.
  assert condition.shape == (2, 87 + 2, sd3_files.CONTEXT)
  predict = jax.jit(model.predict)
  got = predict(variables, latents, condition, sigma)
  apply = jax.jit(model.network.apply)
  context, pooled = joined
  want = apply(variables["network"], latents, context, sigma, pooled).velocity
  # Measured 3e-7 of numbers up to 1.
  np.testing.assert_allclose(got.velocity, want, atol=1e-5)
  assert got.logits is None
  without = apply(variables["network"], latents, context, sigma).velocity
  assert np.abs(without - want).max() > 0.01


def test_zeros_stand_for_a_missing_t5(variables, ids, joined):
  model = sd3_files.model(text_encoder=None)
  assert "text_encoder" not in model.parts()
  ids = {name: ids[name] for name in ("clip_l", "clip_g")}
  context, pooled = jax.jit(model.encode_text)(variables, ids)
  assert context.shape == joined[0].shape
  assert not np.asarray(context[:, 77:]).any()
  np.testing.assert_allclose(context[:, :77], joined[0][:, :77], atol=1e-5)
  np.testing.assert_allclose(pooled, joined[1], atol=1e-5)


def test_the_encoders_bfloat16_stays_bfloat16(variables, ids):
  parts = {
    name: clip_text_encoder(sd3_files.CONFIGS[name], dtype="bfloat16")
    for name in ("clip_l", "clip_g")
  }
  model = sd3_files.model(text_encoder=None, **parts)
  condition = jax.eval_shape(model.condition, variables, ids)
  assert condition.dtype == jnp.bfloat16


@pytest.mark.parametrize(
  "fields, message",
  [
    (
      {"pooled_dim": 41},
      "takes 41 pooled text features, CLIP-L and CLIP-G giv",
    ),
    ({"context_dim": 19}, "text features of 19"),
    ({"latent_channels": 3}, "takes 3 channels"),
  ],
)
def test_parts_of_different_checkpoints_are_refused(model, fields, message):
  model.check_fits()
  config = dataclasses.replace(sd3_files.NETWORK, **fields)
  other = dataclasses.replace(model, network=Network(config))
  with pytest.raises(ValueError, match=message):
    other.check_fits()


def test_clip_wider_than_the_context_is_refused_without_t5():
  config = dataclasses.replace(sd3_files.NETWORK, context_dim=19)
  model = sd3_files.model(text_encoder=None, network=Network(config))
  with pytest.raises(
    ValueError, match="features of 19, CLIP-L and CLIP-G give"
  ):
    model.check_fits()
