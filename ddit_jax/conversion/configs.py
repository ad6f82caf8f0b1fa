"""Configurations of all networks: from `config.json` or shapes, and back.

Stability's single file has no `config.json`; there the shapes tell, with a head
width that is the same in all of Stability's SD3 files.
"""

import dataclasses
import functools
import math
import typing
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from ddit_jax.conversion.json_config import JsonConfig
from ddit_jax.conversion.safetensors_io import StoredTensor
from ddit_jax.encoders.clip import (
  CLIP_SIZES,
  CLIPTextConfig,
  clip_text_encoder,
)
from ddit_jax.encoders.clip_vision import (
  CLIPVisionConfig,
  clip_vision_encoder,
)
from ddit_jax.encoders.t5 import T5Config, t5_encoder
from ddit_jax.encoders.vae import AutoencoderConfig, autoencoder
from ddit_jax.errors import InputError, first_few
from ddit_jax.models.config import MMDiTConfig
from ddit_jax.models.embeddings import sine_cosine_table
from ddit_jax.models.gpt2 import GPT2Config, gpt2
from ddit_jax.models.module import Network, PureModule
from ddit_jax.models.prenorm_block import ACTIVATIONS

NetworkConfig = (
  MMDiTConfig
  | T5Config
  | CLIPTextConfig
  | AutoencoderConfig
  | GPT2Config
  | CLIPVisionConfig
)
_Tensors = Mapping[str, StoredTensor]
# Path of an array, "params/blocks/image/qkv/kernel", -> its shape.
ArrayShapes = dict[str, tuple[int, ...]]

CONFIG_CLASSES: dict[str, type] = {
  "network": MMDiTConfig,
  "text_encoder": T5Config,
  "vae": AutoencoderConfig,
  "clip_l": CLIPTextConfig,
  "clip_g": CLIPTextConfig,
  "decoder": GPT2Config,
  "image_encoder": CLIPVisionConfig,
}
# Our field -> the field in `config.json`.
HUB_FIELDS = {
  T5Config: {
    "depth": "num_layers",
    "width": "d_model",
    "num_heads": "num_heads",
    "head_dim": "d_kv",
    "mlp_width": "d_ff",
    "vocab_size": "vocab_size",
    "num_buckets": "relative_attention_num_buckets",
    "max_distance": "relative_attention_max_distance",
    "epsilon": "layer_norm_epsilon",
  },
  CLIPTextConfig: {
    "depth": "num_hidden_layers",
    "width": "hidden_size",
    "num_heads": "num_attention_heads",
    "mlp_width": "intermediate_size",
    "activation": "hidden_act",
    "projection_dim": "projection_dim",
    "vocab_size": "vocab_size",
    "max_length": "max_position_embeddings",
    "epsilon": "layer_norm_eps",
  },
  CLIPVisionConfig: {
    "depth": "num_hidden_layers",
    "width": "hidden_size",
    "num_heads": "num_attention_heads",
    "mlp_width": "intermediate_size",
    "patch_size": "patch_size",
    "projection_dim": "projection_dim",
    "image_size": "image_size",
    "activation": "hidden_act",
    "epsilon": "layer_norm_eps",
  },
  # The width of its MLP is that of the tensors: n_inner may be null.
  GPT2Config: {
    "depth": "n_layer",
    "width": "n_embd",
    "num_heads": "n_head",
    "vocab_size": "vocab_size",
    "max_length": "n_positions",
    "epsilon": "layer_norm_epsilon",
  },
  AutoencoderConfig: {
    "image_channels": "in_channels",
    "latent_channels": "latent_channels",
    "block_widths": "block_out_channels",
    "layers_per_block": "layers_per_block",
    "num_groups": "norm_num_groups",
    "shift": "shift_factor",
    "scale": "scaling_factor",
  },
  MMDiTConfig: {
    "depth": "num_layers",
    "num_heads": "num_attention_heads",
    "patch_size": "patch_size",
    "latent_channels": "in_channels",
    "max_grid": "pos_embed_max_size",
    "context_dim": "joint_attention_dim",
  },
}
# Fields that some `config.json` files lack; our defaults are transformers'.
_OPTIONAL = {
  T5Config: ("relative_attention_max_distance",),
  CLIPVisionConfig: ("hidden_act", "image_size", "layer_norm_eps"),
}
_CLIP_ACTIVATIONS = {
  "hidden_act": (
    ("quick_gelu", *(a for a in ACTIVATIONS if a != "quick_gelu")),
    "is not computed",
  )
}
# Field -> (supported values, why others are not supported).
_FIXED = {
  T5Config: {"feed_forward_proj": (("gated-gelu",), "is not T5 v1.1's MLP")},
  CLIPTextConfig: _CLIP_ACTIVATIONS,
  CLIPVisionConfig: _CLIP_ACTIVATIONS,
  GPT2Config: {
    "activation_function": (("gelu_new",), "is not GPT-2's"),
    "scale_attn_weights": ((True,), "is not GPT-2's attention"),
    "scale_attn_by_inverse_layer_idx": ((False,), "is not GPT-2's attention"),
    "add_cross_attention": ((False,), "is not GPT-2"),
  },
  AutoencoderConfig: {"act_fn": (("silu",), "is not SD3's activation")},
}
# Both of SD3's CLIP encoders and all of Stability's networks.
_HEAD_DIM = 64
_NUM_NULL_IMAGE_TOKENS = 8


def _fields(config: JsonConfig, config_class: type) -> dict[str, Any]:
  """The fields of one of our configurations, by `HUB_FIELDS`."""
  for name, (allowed, reason) in _FIXED.get(config_class, {}).items():
    config.refuse_unless(name, *allowed, reason=reason)
  kinds = typing.get_type_hints(config_class)
  values = {}
  for ours, theirs in HUB_FIELDS[config_class].items():
    is_optional = theirs in _OPTIONAL.get(config_class, ())
    if is_optional and theirs not in config.fields:
      continue
    if ours == "block_widths":
      values[ours] = config.need(theirs, tuple)
    else:
      kind = kinds[ours] if kinds[ours] in (float, str) else int
      values[ours] = config.need(theirs, kind)
  return values


def read_config(
  name: str, scheme: str, tensors: _Tensors, json_config: JsonConfig | None
) -> NetworkConfig:
  """The configuration of one network of a checkpoint.

  Args:
    name: a key of `CONFIG_CLASSES`.
    scheme: the key scheme of its tensors.
    tensors: by key; shapes are used, and the network's position table.
    json_config: its `config.json`; None in the single file.

  Raises:
    InputError: fields or tensors are missing or contradictory.
  """
  match name, json_config:
    case "network", None:
      return _network_from_shapes(tensors)
    case "network", _:
      return _network_from_json(scheme, tensors, json_config)
    case "text_encoder", None:
      return _t5_from_shapes(tensors)
    case "vae", None:
      return _vae_from_shapes(tensors)
    case "clip_l" | "clip_g", None:
      return _clip_from_shapes(tensors, CLIP_SIZES[name[-1].upper()].activation)
    case "decoder", _:
      mlp_width = _shape(tensors, "h.0.mlp.c_fc.weight", 2)[1]
      return GPT2Config(mlp_width=mlp_width, **_fields(json_config, GPT2Config))
    case "vae", _:
      _check_vae(json_config)
  config_class = CONFIG_CLASSES[name]
  return config_class(**_fields(json_config, config_class))


def ddit_config(sd3: MMDiTConfig, vocab_size: int) -> MMDiTConfig:
  """The D-DiT that starts from SD3's network."""
  return dataclasses.replace(
    sd3,
    vocab_size=vocab_size,
    pooled_dim=0,
    num_null_image_tokens=_NUM_NULL_IMAGE_TOKENS,
    is_last_text_block_full=True,
  )


def module_of(config: NetworkConfig) -> PureModule:
  """The network with this configuration."""
  match config:
    case MMDiTConfig():
      return Network(config)
    case T5Config():
      return t5_encoder(config)
    case CLIPTextConfig():
      return clip_text_encoder(config)
    case AutoencoderConfig():
      return autoencoder(config)
    case GPT2Config():
      return gpt2(config)
    case CLIPVisionConfig():
      return clip_vision_encoder(config)


@functools.cache
def array_shapes(config: NetworkConfig) -> ArrayShapes:
  """Every array of a network; nothing is allocated. Do not change the dict."""
  variables = module_of(config).abstract_variables()
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables)
  }


def base_grid_of(table: Float[np.ndarray, "grid grid width"]) -> int:
  """The `base_grid` with which a stored position table was made.

  Args:
    table: possibly rounded to half precision.

  Returns:
    The integer in [1, grid] whose table is nearest in row 0.
  """
  grid, _, width = table.shape
  # The fastest sine and cosine along a row; a table of width 4 has only them.
  row = table[0][:, [0, width // 4]].astype(np.float32)
  errors = [
    np.square(sine_cosine_table(grid, 4, base)[0, :, :2] - row).mean()
    for base in range(1, grid + 1)
  ]
  return int(np.argmin(errors)) + 1


def _network_from_json(
  scheme: str, tensors: _Tensors, config: JsonConfig
) -> MMDiTConfig:
  for name in ("qk_norm", "dual_attention_layers"):
    if config.fields.get(name):
      raise InputError(
        f"{config.path} has {name} = {config.fields[name]!r}: this is SD3.5, "
        "whose network is another (see its q/k norm); use SD3-medium or D-DiT"
      )
  fields = _fields(config, MMDiTConfig)
  width = fields["num_heads"] * config.need("attention_head_dim")
  base_grid = config.need("sample_size") // fields["patch_size"]
  if not base_grid:
    raise InputError(
      f"{config.path} has sample_size = {config.fields['sample_size']}, below "
      f"its patch_size {fields['patch_size']}: fetch it again"
    )
  refuse_unless = config.refuse_unless
  refuse_unless(
    "caption_projection_dim", width, reason="is not the network's width"
  )
  channels = fields["latent_channels"]
  refuse_unless("out_channels", channels, None, reason="is not in_channels")
  hidden, _ = _shape(tensors, "transformer_blocks.0.ff.net.0.proj.weight", 2)
  sd3 = _sd3_config(
    **fields,
    width=width,
    mlp_ratio=hidden // width,
    base_grid=base_grid,
    pooled_dim=config.need("pooled_projection_dim") if scheme == "sd3" else 0,
  )
  if scheme == "sd3":
    return sd3
  vocab_size, _ = _shape(tensors, "text_proj_out.weight", 2)
  refuse_unless(
    "vocab_size", vocab_size, reason="is not the rows of text_proj_out"
  )
  return dataclasses.replace(
    ddit_config(sd3, vocab_size),
    num_null_image_tokens=_shape(tensors, "null_image_embd", 3)[1],
  )


def _network_from_shapes(tensors: _Tensors) -> MMDiTConfig:
  width, channels, patch_size, _ = _shape(tensors, "x_embedder.proj.weight", 4)
  num_heads = _num_heads(width, "the network")
  _, num_positions, _ = _shape(tensors, "pos_embed", 3)
  grid = math.isqrt(num_positions)
  if grid**2 != num_positions:
    raise InputError(
      f"the position table has {num_positions} rows, not a square number"
    )
  hidden, _ = _shape(tensors, "joint_blocks.0.x_block.mlp.fc1.weight", 2)
  table = tensors["pos_embed"].read().reshape(grid, grid, -1)
  return _sd3_config(
    depth=_count(tensors, "joint_blocks."),
    width=width,
    num_heads=num_heads,
    mlp_ratio=hidden // width,
    patch_size=patch_size,
    latent_channels=channels,
    max_grid=grid,
    base_grid=base_grid_of(table),
    context_dim=_shape(tensors, "context_embedder.weight", 2)[1],
    pooled_dim=_shape(tensors, "y_embedder.mlp.0.weight", 2)[1],
  )


def _sd3_config(**fields: Any) -> MMDiTConfig:
  return MMDiTConfig(
    **fields,
    vocab_size=0,
    num_null_image_tokens=0,
    is_last_text_block_full=False,
  )


def _t5_from_shapes(tensors: _Tensors) -> T5Config:
  vocab_size, width = _shape(tensors, "shared.weight", 2)
  attention = "encoder.block.0.layer.0.SelfAttention."
  num_buckets, num_heads = _shape(
    tensors, f"{attention}relative_attention_bias.weight", 2
  )
  mlp = "encoder.block.0.layer.1.DenseReluDense.wi_0.weight"
  return T5Config(
    depth=_count(tensors, "encoder.block."),
    width=width,
    num_heads=num_heads,
    head_dim=_shape(tensors, f"{attention}q.weight", 2)[0] // num_heads,
    mlp_width=_shape(tensors, mlp, 2)[0],
    vocab_size=vocab_size,
    num_buckets=num_buckets,
  )


def _clip_from_shapes(tensors: _Tensors, activation: str) -> CLIPTextConfig:
  embeddings = "text_model.embeddings."
  layers = "text_model.encoder.layers."
  vocab_size, width = _shape(tensors, f"{embeddings}token_embedding.weight", 2)
  positions = f"{embeddings}position_embedding.weight"
  projection_dim = width
  if "text_projection.weight" in tensors:
    projection_dim, _ = _shape(tensors, "text_projection.weight", 2)
  return CLIPTextConfig(
    depth=_count(tensors, layers),
    width=width,
    num_heads=_num_heads(width, "CLIP"),
    mlp_width=_shape(tensors, f"{layers}0.mlp.fc1.weight", 2)[0],
    activation=activation,
    projection_dim=projection_dim,
    vocab_size=vocab_size,
    max_length=_shape(tensors, positions, 2)[0],
  )


def _vae_from_shapes(tensors: _Tensors) -> AutoencoderConfig:
  num_blocks = _count(tensors, "encoder.down.")
  firsts = (f"encoder.down.{i}.block.0.conv1.weight" for i in range(num_blocks))
  return AutoencoderConfig(
    image_channels=_shape(tensors, "encoder.conv_in.weight", 4)[1],
    latent_channels=_shape(tensors, "decoder.conv_in.weight", 4)[1],
    block_widths=tuple(_shape(tensors, first, 4)[0] for first in firsts),
    layers_per_block=_count(tensors, "encoder.down.0.block."),
  )


def _check_vae(config: JsonConfig) -> None:
  channels = config.need("in_channels")
  config.refuse_unless("out_channels", channels, reason="is not in_channels")
  for name in ("use_quant_conv", "use_post_quant_conv"):
    # Where the field is absent, diffusers takes it as true.
    if config.fields.get(name, True) is not False:
      raise InputError(
        f"{config.path} does not say {name} = false: SD3's autoencoder has no "
        "such convolution beside its latents, and none is computed here; give "
        "SD3's autoencoder"
      )


def _num_heads(width: int, what: str) -> int:
  if width % _HEAD_DIM:
    raise InputError(
      f"{what}'s width {width} is not a multiple of {_HEAD_DIM}, the width of "
      "a head in Stability's files"
    )
  return width // _HEAD_DIM


def _shape(tensors: _Tensors, name: str, ndim: int) -> tuple[int, ...]:
  """The shape of a tensor that fixes a configuration."""
  if name not in tensors:
    files = {str(tensor.file) for tensor in tensors.values()}
    raise InputError(
      f"{first_few(sorted(files)) or 'the checkpoint'} lacks tensor {name}: it "
      "is incomplete or another model; fetch it again"
    )
  shape = tensors[name].shape
  if len(shape) != ndim:
    raise InputError(
      f"tensor {tensors[name].label} has shape {list(shape)}, not the {ndim} "
      "dimensions it needs: it is damaged or another model; fetch it again"
    )
  return shape


def _count(tensors: _Tensors, prefix: str) -> int:
  """The number of modules PREFIX0., PREFIX1., ..."""
  numbers = {
    name.removeprefix(prefix).split(".")[0]
    for name in tensors
    if name.startswith(prefix)
  }
  if not numbers or numbers != {str(number) for number in range(len(numbers))}:
    raise InputError(
      f"modules {prefix}* are numbered {sorted(numbers)}: the checkpoint is "
      "incomplete; fetch it again"
    )
  return len(numbers)
