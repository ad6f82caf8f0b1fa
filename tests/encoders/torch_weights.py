"""PyTorch's weights (or gradients) as the parameter trees of the encoders."""

import jax
import numpy as np
import torch


def randomise(module: torch.nn.Module, seed: int) -> torch.nn.Module:
  """Moves every parameter off its start, so that none is 0 or 1 by chance."""
  generator = torch.Generator().manual_seed(seed)
  with torch.no_grad():
    for parameter in module.parameters():
      parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
  return module.eval()


def weights(module: torch.nn.Module) -> dict[str, np.ndarray]:
  """Every parameter by its PyTorch name, float32."""
  return {
    name: parameter.detach().float().numpy()
    for name, parameter in module.named_parameters()
  }


def gradients(module: torch.nn.Module) -> dict[str, np.ndarray]:
  """Every parameter's gradient; zeros where the loss did not reach it."""
  return {
    name: np.zeros(parameter.shape, np.float32)
    if parameter.grad is None
    else parameter.grad.float().numpy()
    for name, parameter in module.named_parameters()
  }


def t5_params(named: dict[str, np.ndarray], config) -> dict:
  """`T5EncoderModel`'s tensors as the tree of `encoders.t5`."""
  heads = (config.num_heads, config.head_dim)

  def block(i):
    attention = f"encoder.block.{i}.layer.0"
    mlp = f"encoder.block.{i}.layer.1"
    dense = f"{mlp}.DenseReluDense"
    qkv = [named[f"{attention}.SelfAttention.{x}.weight"].T for x in "qkv"]
    out = named[f"{attention}.SelfAttention.o.weight"].T
    return {
      "attention_norm": {"scale": named[f"{attention}.layer_norm.weight"]},
      "qkv": {"kernel": np.stack(qkv, 1).reshape(config.width, 3, *heads)},
      "out": {"kernel": out.reshape(*heads, config.width)},
      "mlp_norm": {"scale": named[f"{mlp}.layer_norm.weight"]},
      "mlp_gate": {"kernel": named[f"{dense}.wi_0.weight"].T},
      "mlp_in": {"kernel": named[f"{dense}.wi_1.weight"].T},
      "mlp_out": {"kernel": named[f"{dense}.wo.weight"].T},
    }

  bias = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias"
  return {
    "token_embedding": named["shared.weight"],
    "position_bias": named[f"{bias}.weight"],
    "blocks": _stack([block(i) for i in range(config.depth)]),
    "final_norm": {"scale": named["encoder.final_layer_norm.weight"]},
  }


def clip_params(named: dict[str, np.ndarray], config) -> dict:
  """`CLIPTextModelWithProjection`'s tensors as the tree of `encoders.clip`."""
  head_dim = config.width // config.num_heads
  heads = (config.num_heads, head_dim)

  def block(i):
    layer = f"text_model.encoder.layers.{i}"
    q, k, v = (_linear(named, f"{layer}.self_attn.{x}_proj") for x in "qkv")
    kernel = np.stack([q["kernel"], k["kernel"], v["kernel"]], 1)
    bias = np.stack([q["bias"], k["bias"], v["bias"]])
    out = _linear(named, f"{layer}.self_attn.out_proj")
    return {
      "attention_norm": _norm(named, f"{layer}.layer_norm1"),
      "qkv": {
        "kernel": kernel.reshape(config.width, 3, *heads),
        "bias": bias.reshape(3, *heads),
      },
      "out": {
        "kernel": out["kernel"].reshape(*heads, config.width),
        "bias": out["bias"],
      },
      "mlp_norm": _norm(named, f"{layer}.layer_norm2"),
      "mlp_in": _linear(named, f"{layer}.mlp.fc1"),
      "mlp_out": _linear(named, f"{layer}.mlp.fc2"),
    }

  embeddings = "text_model.embeddings"
  return {
    "token_embedding": named[f"{embeddings}.token_embedding.weight"],
    "position_embedding": named[f"{embeddings}.position_embedding.weight"],
    "blocks": _stack([block(i) for i in range(config.depth)]),
    "final_norm": _norm(named, "text_model.final_layer_norm"),
    "projection": {"kernel": named["text_projection.weight"].T},
  }


def vae_params(named: dict[str, np.ndarray], config) -> dict:
  """`AutoencoderKL`'s tensors as the tree of `encoders.vae`."""

  def resnet(path):
    block = {
      "norm_1": _norm(named, f"{path}.norm1"),
      "conv_1": _conv(named, f"{path}.conv1"),
      "norm_2": _norm(named, f"{path}.norm2"),
      "conv_2": _conv(named, f"{path}.conv2"),
    }
    if f"{path}.conv_shortcut.weight" in named:
      block["shortcut"] = _conv(named, f"{path}.conv_shortcut")
    return block

  def level(path, num_layers):
    return {
      f"resnet_{j}": resnet(f"{path}.resnets.{j}") for j in range(num_layers)
    }

  def half(name, level_name, num_layers, change):
    levels = {}
    for i in range(len(config.block_widths)):
      path = f"{name}.{level_name}_blocks.{i}"
      levels[f"{level_name}_{i}"] = level(path, num_layers)
      if f"{path}.{change}rs.0.conv.weight" in named:
        changed = _conv(named, f"{path}.{change}rs.0.conv")
        levels[f"{level_name}_{i}"][change] = changed
    return levels | {
      "conv_in": _conv(named, f"{name}.conv_in"),
      "middle": level(f"{name}.mid_block", 2)
      | {"attention": _attention(named, f"{name}.mid_block.attentions.0")},
      "norm_out": _norm(named, f"{name}.conv_norm_out"),
      "conv_out": _conv(named, f"{name}.conv_out"),
    }

  layers = config.layers_per_block
  return {
    "encoder": half("encoder", "down", layers, "downsample"),
    "decoder": half("decoder", "up", layers + 1, "upsample"),
  }


def largest_error(got, want) -> float:
  """The largest max |got - want| / max |want| of any array of a tree."""
  assert jax.tree.structure(got) == jax.tree.structure(want)

  def one(a, b):
    a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
    assert a.shape == b.shape
    return np.abs(a - b).max() / np.abs(b).max()

  # max() would drop a NaN that is not the first.
  return float(np.max(jax.tree.leaves(jax.tree.map(one, got, want))))


def relative_distance(got, want) -> float:
  """||got - want|| / ||want|| of two arrays."""
  got, want = np.asarray(got, np.float32), np.asarray(want, np.float32)
  assert got.shape == want.shape
  return float(np.linalg.norm(got - want) / np.linalg.norm(want))


def _attention(named, path) -> dict:
  q, k, v = (_linear(named, f"{path}.to_{x}") for x in "qkv")
  return {
    "norm": _norm(named, f"{path}.group_norm"),
    "qkv": {
      "kernel": np.stack([q["kernel"], k["kernel"], v["kernel"]], 1),
      "bias": np.stack([q["bias"], k["bias"], v["bias"]]),
    },
    "out": _linear(named, f"{path}.to_out.0"),
  }


def _conv(named, path) -> dict:
  kernel = named[f"{path}.weight"].transpose(2, 3, 1, 0)
  return {"kernel": kernel, "bias": named[f"{path}.bias"]}


def _linear(named, path) -> dict:
  return {"kernel": named[f"{path}.weight"].T, "bias": named[f"{path}.bias"]}


def _norm(named, path) -> dict:
  return {"scale": named[f"{path}.weight"], "bias": named[f"{path}.bias"]}


def _stack(trees: list[dict]) -> dict:
  return jax.tree.map(lambda *arrays: np.stack(arrays), *trees)
