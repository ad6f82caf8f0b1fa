"""The T5 encoder against `transformers`, forward and backward."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from ddit_jax.encoders.t5 import T5_SIZES, T5Config, t5_encoder
from tests.encoders import torch_weights

CONFIG = T5Config(
  depth=3, width=24, num_heads=3, head_dim=16, mlp_width=40, vocab_size=60
)
SHAPES = [(2, 7), (1, 1), (1, 150)]


def torch_t5(config: T5Config, dtype=torch.float32):
  settings = transformers.T5Config(
    d_model=config.width,
    d_kv=config.head_dim,
    d_ff=config.mlp_width,
    num_layers=config.depth,
    num_heads=config.num_heads,
    vocab_size=config.vocab_size,
    relative_attention_num_buckets=config.num_buckets,
    relative_attention_max_distance=config.max_distance,
    feed_forward_proj="gated-gelu",
    tie_word_embeddings=False,
  )
  with torch.device("cpu"):
    torch.manual_seed(0)
    model = transformers.T5EncoderModel(settings)
  return torch_weights.randomise(model, 1).to(dtype)


@pytest.fixture(scope="module")
def model():
  return torch_t5(CONFIG)


@pytest.fixture(scope="module")
def params(model):
  return torch_weights.t5_params(torch_weights.weights(model), CONFIG)


def features_of(encoder, params, ids):
  return jax.jit(encoder.apply)({"params": params}, jnp.asarray(ids))


def random_ids(shape):
  return np.random.default_rng(3).integers(0, CONFIG.vocab_size, shape)


@pytest.mark.parametrize("shape", SHAPES)
def test_features_equal_transformers(model, params, shape):
  ids = random_ids(shape)
  with torch.no_grad():
    want = model(torch.from_numpy(ids))[0].numpy()
  got = features_of(t5_encoder(CONFIG), params, ids)
  # Measured 2e-7 to 2e-6.
  assert torch_weights.largest_error(got, want) < 1e-5


def test_other_buckets_equal_transformers():
  config = dataclasses.replace(CONFIG, num_buckets=12, max_distance=20)
  model = torch_t5(config)
  params = torch_weights.t5_params(torch_weights.weights(model), config)
  ids = random_ids((2, 70))
  with torch.no_grad():
    want = model(torch.from_numpy(ids))[0].numpy()
  got = features_of(t5_encoder(config), params, ids)
  # Measured 3e-6.
  assert torch_weights.largest_error(got, want) < 1e-5


@pytest.mark.parametrize("shape, has_remat", [((2, 7), False), ((1, 40), True)])
def test_parameter_gradients_equal_transformers(
  model, params, shape, has_remat
):
  ids = random_ids(shape)
  weight = np.random.default_rng(4).normal(size=(*shape, CONFIG.width))
  weight = weight.astype(np.float32)
  model.zero_grad()
  features = model(torch.from_numpy(ids))[0]
  (features * torch.from_numpy(weight)).sum().backward()
  want = torch_weights.t5_params(torch_weights.gradients(model), CONFIG)
  encoder = t5_encoder(CONFIG, has_remat=has_remat)

  def loss(params):
    features = encoder.apply({"params": params}, jnp.asarray(ids))
    return jnp.sum(features * weight)

  got = jax.jit(jax.grad(loss))(params)
  # Measured 3e-6.
  assert torch_weights.largest_error(got, want) < 2e-5


def test_input_gradients_equal_transformers(model, params):
  random = np.random.default_rng(5)
  embedded, weight = random.normal(size=(2, 2, 9, CONFIG.width)).astype("f4")
  leaf = torch.from_numpy(embedded).requires_grad_()
  features = model(inputs_embeds=leaf)[0]
  (features * torch.from_numpy(weight)).sum().backward()
  encoder = t5_encoder(CONFIG)

  def loss(embedded):
    features = encoder.apply(
      {"params": params}, embedded, method="encode_embedded"
    )
    return jnp.sum(features * weight)

  got = jax.jit(jax.grad(loss))(embedded)
  # Measured 2e-6.
  assert torch_weights.largest_error(got, leaf.grad.numpy()) < 1e-5


def test_a_trained_row_stands_in_for_one_of_the_table(params):
  encoder, mask_id = t5_encoder(CONFIG), 59
  ids = jnp.asarray(random_ids((2, 12))).at[:, 3:6].set(mask_id)

  def by_row(row):
    embedded = encoder.apply({"params": params}, ids, method="embed")
    is_mask = (ids == mask_id)[..., None]
    embedded = jnp.where(is_mask, row, embedded)
    features = encoder.apply(
      {"params": params}, embedded, method="encode_embedded"
    )
    return jnp.sum(features**3)

  def by_table(table):
    tree = {"params": params | {"token_embedding": table}}
    return jnp.sum(encoder.apply(tree, ids) ** 3)

  table = jnp.asarray(params["token_embedding"])
  loss, gradient = jax.jit(jax.value_and_grad(by_row))(table[mask_id])
  want_loss, want_gradient = jax.jit(jax.value_and_grad(by_table))(table)
  np.testing.assert_allclose(loss, want_loss, rtol=1e-6)
  want = np.asarray(want_gradient[mask_id])
  # Measured 0 on CPU; sums may run in another order elsewhere.
  assert torch_weights.largest_error(gradient, want) < 3e-6


def test_bfloat16_is_as_near_float32_as_in_pytorch(model, params):
  ids = random_ids((2, 40))
  with torch.no_grad():
    want = model(torch.from_numpy(ids))[0].numpy()
    half = torch_t5(CONFIG, torch.bfloat16)(torch.from_numpy(ids))[0]
  encoder = t5_encoder(CONFIG, dtype="bfloat16")
  got = features_of(encoder, params, ids)
  assert got.dtype == jnp.bfloat16
  ours = torch_weights.relative_distance(got, want)
  theirs = torch_weights.relative_distance(half.float().numpy(), want)
  # Measured 0.019 and PyTorch's 0.020.
  assert ours < 0.04
  assert ours < 1.5 * theirs


def test_bfloat16_parameters_give_bfloat16_features():
  encoder = t5_encoder(CONFIG, dtype="bfloat16", parameter_dtype="bfloat16")
  variables = jax.eval_shape(encoder.init, jax.random.key(0))
  dtypes = {leaf.dtype for leaf in jax.tree.leaves(variables)}
  assert dtypes == {jnp.dtype("bfloat16")}
  ids = jax.ShapeDtypeStruct((2, 5), jnp.int32)
  features = jax.eval_shape(encoder.apply, variables, ids)
  assert (features.shape, features.dtype) == ((2, 5, 24), jnp.bfloat16)


def test_fresh_scores_have_unit_scale():
  config = dataclasses.replace(CONFIG, width=256, num_heads=4, head_dim=64)
  variables = jax.jit(t5_encoder(config).init)(jax.random.key(0))
  qkv = variables["params"]["blocks"]["qkv"]["kernel"]
  tokens = jax.random.normal(jax.random.key(1), (100, 256))
  query, key = jnp.einsum("nd,drhk->rnhk", tokens, qkv[0])[:2]
  scores = jnp.einsum("qhk,nhk->hqn", query, key)
  # The scores are not scaled, so that their spread would be 8 without care.
  assert 0.8 < float(scores.std()) < 1.2


# d_model, d_ff, layers and heads in the config.json of google/t5-v1_1-*.
PUBLISHED = {
  "small": (512, 1024, 8, 6),
  "base": (768, 2048, 12, 12),
  "large": (1024, 2816, 24, 16),
  "xl": (2048, 5120, 24, 32),
  "xxl": (4096, 10240, 24, 64),
}


@pytest.mark.parametrize("name", T5_SIZES)
def test_full_sizes_have_as_many_parameters_as_transformers(name):
  width, mlp_width, depth, num_heads = PUBLISHED[name]
  settings = transformers.T5Config(
    d_model=width,
    d_kv=64,
    d_ff=mlp_width,
    num_layers=depth,
    num_heads=num_heads,
    vocab_size=32128,
    feed_forward_proj="gated-gelu",
  )
  with torch.device("meta"):
    model = transformers.T5EncoderModel(settings)
  want = sum(parameter.numel() for parameter in model.parameters())
  assert t5_encoder(T5_SIZES[name]).num_parameters() == want


def test_float16_is_refused():
  with pytest.raises(ValueError, match="overflows it; use bfloat16 or"):
    t5_encoder(CONFIG, dtype="float16")
  with pytest.raises(ValueError, match="overflows"):
    t5_encoder(CONFIG, parameter_dtype="float16")


@pytest.mark.parametrize("ids", [jnp.zeros((2, 3)), jnp.zeros(3, jnp.int32)])
def test_other_inputs_than_token_ids_are_refused(params, ids, unchecked_shapes):
  with pytest.raises(ValueError, match="integer token ids of shape"):
    t5_encoder(CONFIG).apply({"params": params}, ids)


@pytest.mark.parametrize("num_buckets, max_distance", [(30, 128), (32, 8)])
def test_impossible_buckets_are_refused(num_buckets, max_distance):
  with pytest.raises(ValueError, match="num_buckets"):
    dataclasses.replace(
      CONFIG, num_buckets=num_buckets, max_distance=max_distance
    )
