"""The MM-DiT in SD3's variant against `diffusers`' SD3Transformer2DModel."""

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from ddit_jax.models.config import MMDiTConfig
from ddit_jax.models.embeddings import sine_cosine_table
from ddit_jax.models.mmdit import Execution
from ddit_jax.models.module import Network
from tests.encoders import torch_weights

CONFIG = MMDiTConfig(
  depth=3,
  width=24,
  num_heads=3,
  latent_channels=4,
  max_grid=9,
  base_grid=4,
  context_dim=20,
  vocab_size=0,
  pooled_dim=14,
  num_null_image_tokens=0,
  is_last_text_block_full=False,
)
# (batch, height, width, text length): square, wide, tall and odd crops.
SHAPES = [(2, 8, 8, 5), (1, 6, 14, 9), (1, 18, 2, 1)]


@pytest.fixture(autouse=True)
def full_precision():
  with jax.default_matmul_precision("highest"):
    yield


def torch_sd3(config: MMDiTConfig = CONFIG, dtype=torch.float32):
  torch.manual_seed(0)
  model = diffusers.SD3Transformer2DModel(
    sample_size=config.base_grid * config.patch_size,
    patch_size=config.patch_size,
    in_channels=config.latent_channels,
    out_channels=config.latent_channels,
    num_layers=config.depth,
    attention_head_dim=config.head_dim,
    num_attention_heads=config.num_heads,
    joint_attention_dim=config.context_dim,
    caption_projection_dim=config.width,
    pooled_projection_dim=config.pooled_dim,
    pos_embed_max_size=config.max_grid,
    qk_norm="rms_norm" if config.has_qk_norm else None,
  )
  return torch_weights.randomise(model, 1).to(dtype)


def linear(named, path):
  return {"kernel": named[f"{path}.weight"].T, "bias": named[f"{path}.bias"]}


def modulation(named, path, rows):
  """[rows * width, width], row after row, to [width, rows, width]."""
  tree = linear(named, path)
  tree["kernel"] = tree["kernel"].reshape(CONFIG.width, rows, CONFIG.width)
  tree["bias"] = tree["bias"].reshape(rows, CONFIG.width)
  return {"project": tree}


def stream(named, block, config, *, norm, qkv, qk_norm, later, rows=6):
  """One stream of a block; `later` names its output projection and MLP."""
  heads = (config.num_heads, config.head_dim)
  width = config.width
  parts = [linear(named, f"{block}.attn.{name}") for name in qkv]
  tree = {
    "modulation": modulation(named, f"{block}.{norm}.linear", rows),
    "qkv": {
      "kernel": np.stack([p["kernel"] for p in parts], 1).reshape(
        width, 3, *heads
      ),
      "bias": np.stack([p["bias"] for p in parts]).reshape(3, *heads),
    },
  }
  if config.has_qk_norm:
    for ours, theirs in zip(("query_norm", "key_norm"), qk_norm, strict=True):
      tree[ours] = {"scale": named[f"{block}.attn.{theirs}.weight"]}
  if later:
    out = linear(named, f"{block}.attn.{later[0]}")
    tree["out"] = {
      "kernel": out["kernel"].reshape(*heads, width),
      "bias": out["bias"],
    }
    tree["mlp"] = {
      "in": linear(named, f"{block}.{later[1]}.net.0.proj"),
      "out": linear(named, f"{block}.{later[1]}.net.2"),
    }
  return tree


def joint_block(named, i, config):
  block, is_last = f"transformer_blocks.{i}", i == config.depth - 1
  return {
    "image": stream(
      named,
      block,
      config,
      norm="norm1",
      qkv=("to_q", "to_k", "to_v"),
      qk_norm=("norm_q", "norm_k"),
      later=("to_out.0", "ff"),
    ),
    "text": stream(
      named,
      block,
      config,
      norm="norm1_context",
      qkv=("add_q_proj", "add_k_proj", "add_v_proj"),
      qk_norm=("norm_added_q", "norm_added_k"),
      later=() if is_last else ("to_add_out", "ff_context"),
      rows=2 if is_last else 6,
    ),
  }


def network_params(named, config=CONFIG):
  """Diffusers' tensors, or their gradients, as the network's tree."""
  patch = named["pos_embed.proj.weight"].transpose(2, 3, 1, 0)
  embedders = "time_text_embed"
  blocks = [joint_block(named, i, config) for i in range(config.depth)]
  return {
    "patch_embedding": {
      "project": {
        "kernel": patch.reshape(-1, config.width),
        "bias": named["pos_embed.proj.bias"],
      }
    },
    "context_embedding": linear(named, "context_embedder"),
    "time_embedding": {
      f"linear_{i}": linear(named, f"{embedders}.timestep_embedder.linear_{i}")
      for i in (1, 2)
    },
    "pooled_embedding": {
      f"linear_{i}": linear(named, f"{embedders}.text_embedder.linear_{i}")
      for i in (1, 2)
    },
    "blocks": jax.tree.map(lambda *x: np.stack(x), *blocks[:-1]),
    "last_block": blocks[-1],
    "image_head": {
      "modulation": modulation(named, "norm_out.linear", 2),
      "project": linear(named, "proj_out"),
    },
  }


def variables_of(model, config=CONFIG):
  table = model.pos_embed.pos_embed.numpy()
  shape = (config.max_grid, config.max_grid, config.width)
  return {
    "params": network_params(torch_weights.weights(model), config),
    "constants": {"position_table": table.reshape(shape)},
  }


def inputs_of(shape):
  """(latents, text features, sigma, pooled vector), channels last."""
  batch, height, width, length = shape
  random = np.random.default_rng(3)
  latents = random.normal(size=(batch, height, width, CONFIG.latent_channels))
  text = random.normal(size=(batch, length, CONFIG.context_dim))
  sigma = np.array([0.25, 0.8125])[:batch]
  pooled = random.normal(size=(batch, CONFIG.pooled_dim))
  return tuple(jnp.float32(x) for x in (latents, text, sigma, pooled))


def run_torch(model, latents, text, sigma, pooled):
  """Velocity of PyTorch tensors, channels last in and out."""
  return model(
    hidden_states=latents.permute(0, 3, 1, 2),
    encoder_hidden_states=text,
    pooled_projections=pooled,
    timestep=1000 * sigma,
  ).sample.permute(0, 2, 3, 1)


def tensors(inputs, dtype=torch.float32):
  return [torch.from_numpy(np.array(x)).to(dtype) for x in inputs]


@pytest.mark.parametrize(
  "shape, has_qk_norm", [*((x, False) for x in SHAPES), (SHAPES[1], True)]
)
def test_velocity_equals_diffusers(shape, has_qk_norm):
  config = MMDiTConfig(**(vars(CONFIG) | {"has_qk_norm": has_qk_norm}))
  model, inputs = torch_sd3(config), inputs_of(shape)
  with torch.no_grad():
    want = run_torch(model, *tensors(inputs))
  variables = variables_of(model, config)
  got = jax.jit(Network(config).apply)(variables, *inputs).velocity
  # Measured 2e-6.
  assert torch_weights.largest_error(got, want.numpy()) < 2e-5


def test_the_norms_epsilon_equals_diffusers():
  model = torch_sd3()
  torch.nn.init.zeros_(model.context_embedder.bias)
  latents, text, sigma, pooled = inputs_of(SHAPES[0])
  # So faint that the variance is no larger than epsilon.
  inputs = (latents, 1e-3 * text, sigma, pooled)
  with torch.no_grad():
    want = run_torch(model, *tensors(inputs))
  got = jax.jit(Network(CONFIG).apply)(variables_of(model), *inputs).velocity
  # Measured 2e-6; an epsilon of 1e-5 would change it by 0.012.
  assert torch_weights.largest_error(got, want.numpy()) < 2e-5


@pytest.mark.parametrize(
  "shape, has_qk_norm", [(SHAPES[0], False), (SHAPES[1], True)]
)
def test_gradients_equal_diffusers(shape, has_qk_norm):
  config = MMDiTConfig(**(vars(CONFIG) | {"has_qk_norm": has_qk_norm}))
  model, inputs = torch_sd3(config), inputs_of(shape)
  weight = np.random.default_rng(4).normal(size=inputs[0].shape)
  weight = weight.astype("f4")
  leaves = [x.requires_grad_() for x in tensors(inputs)]
  velocity = run_torch(model, *leaves)
  (velocity * torch.from_numpy(weight)).sum().backward()
  want_params = network_params(torch_weights.gradients(model), config)
  network, variables = Network(config), variables_of(model, config)

  def loss(params, latents, text, pooled):
    tree = variables | {"params": params}
    prediction = network.apply(tree, latents, text, inputs[2], pooled)
    return jnp.sum(prediction.velocity * weight)

  got = jax.jit(jax.grad(loss, argnums=(0, 1, 2, 3)))(
    variables["params"], inputs[0], inputs[1], inputs[3]
  )
  got_params, want_params = map(without_null, (got[0], want_params))
  # Measured 3e-5 for the weights that read the time's sinusoid, whose angles
  # reach 812 and so carry rounding of 5e-5; 8e-6 for all others.
  error = torch_weights.largest_error
  assert error(got_params, want_params) < 2e-4
  assert error(without_sinusoid(got_params), without_sinusoid(want_params)) < (
    5e-5
  )
  # Measured 5e-6.
  want_inputs = tuple(leaves[i].grad.numpy() for i in (0, 1, 3))
  assert error(got[1:], want_inputs) < 5e-5


def without_null(params):
  """Leaves out what makes the last block's text queries: nothing reads them.

  A tree keeps its structure, so that two can be compared.
  """
  last = params["last_block"]["text"]
  queries = [last["qkv"]["kernel"][:, 0], last["qkv"]["bias"][0]]
  queries += [last[x]["scale"] for x in ("query_norm",) if x in last]
  assert all(np.abs(np.asarray(x)).max() == 0 for x in queries)
  last.pop("query_norm", None)
  last["qkv"] = {
    "kernel": np.asarray(last["qkv"]["kernel"])[:, 1:],
    "bias": np.asarray(last["qkv"]["bias"])[1:],
  }
  return params


def without_sinusoid(params):
  embedding = {"linear_2": params["time_embedding"]["linear_2"]}
  return params | {"time_embedding": embedding}


def test_bfloat16_is_as_near_float32_as_in_pytorch():
  model, half = torch_sd3(), torch_sd3(dtype=torch.bfloat16)
  inputs = inputs_of(SHAPES[1])
  with torch.no_grad():
    want = run_torch(model, *tensors(inputs)).numpy()
    theirs = run_torch(half, *tensors(inputs, torch.bfloat16))
  network = Network(CONFIG, Execution(dtype="bfloat16"))
  got = jax.jit(network.apply)(variables_of(model), *inputs).velocity
  ours = torch_weights.relative_distance(got, want)
  # Measured 0.008 and PyTorch's 0.007.
  assert ours < 0.03
  theirs = torch_weights.relative_distance(theirs.float().numpy(), want)
  assert ours < 1.5 * theirs


def test_position_table_equals_diffusers():
  want = variables_of(torch_sd3())["constants"]["position_table"]
  got = sine_cosine_table(CONFIG.max_grid, CONFIG.width, CONFIG.base_grid)
  np.testing.assert_allclose(got, want, atol=1e-6)
