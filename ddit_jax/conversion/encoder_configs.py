"""Configurations of T5, CLIP and the autoencoder, read and written."""

from collections.abc import Mapping
from typing import Any

from ddit_jax.conversion.config_fields import (
  JsonConfig,
  count_numbered,
  shape_of,
)
from ddit_jax.conversion.errors import ConversionError
from ddit_jax.conversion.safetensors_files import StoredTensor
from ddit_jax.encoders.clip import ACTIVATIONS, CLIP_SIZES, CLIPTextConfig
from ddit_jax.encoders.t5 import T5Config
from ddit_jax.encoders.vae import AutoencoderConfig

Tensors = Mapping[str, StoredTensor]

_T5_BLOCK = "encoder.block.0.layer."
_CLIP_LAYERS = "text_model.encoder.layers."
# Both of CLIP's encoders in SD3 have heads this wide; shapes do not tell.
_CLIP_HEAD_DIM = 64


def t5_config(tensors: Tensors, json_config: JsonConfig | None) -> T5Config:
  """T5's configuration from its `config.json`, else from shapes.

  Raises:
    ConversionError: fields or tensors are missing, or it is not T5 v1.1.
  """
  if json_config is None:
    return _t5_from_shapes(tensors)
  json_config.refuse_unless(
    "feed_forward_proj", "gated-gelu", reason="is not T5 v1.1's MLP"
  )
  need = json_config.need
  return T5Config(
    depth=need("num_layers"),
    width=need("d_model"),
    num_heads=need("num_heads"),
    head_dim=need("d_kv"),
    mlp_width=need("d_ff"),
    vocab_size=need("vocab_size"),
    num_buckets=need("relative_attention_num_buckets"),
    max_distance=json_config.fields.get("relative_attention_max_distance", 128),
    epsilon=need("layer_norm_epsilon", float),
  )


def t5_json(config: T5Config) -> dict[str, Any]:
  """A `config.json` from which transformers builds the encoder."""
  return {
    "architectures": ["T5EncoderModel"],
    "d_ff": config.mlp_width,
    "d_kv": config.head_dim,
    "d_model": config.width,
    "dense_act_fn": "gelu_new",
    "feed_forward_proj": "gated-gelu",
    "is_encoder_decoder": False,
    "is_gated_act": True,
    "layer_norm_epsilon": config.epsilon,
    "model_type": "t5",
    "num_heads": config.num_heads,
    "num_layers": config.depth,
    "relative_attention_max_distance": config.max_distance,
    "relative_attention_num_buckets": config.num_buckets,
    "vocab_size": config.vocab_size,
  }


def clip_config(
  tensors: Tensors, json_config: JsonConfig | None, size: str
) -> CLIPTextConfig:
  """CLIP's configuration from its `config.json`, else from shapes.

  Args:
    tensors: its tensors.
    json_config: its `config.json`, or None.
    size: "L" or "G", which shapes cannot tell apart: it fixes the activation.

  Raises:
    ConversionError: fields or tensors are missing or of an unknown kind.
  """
  if json_config is None:
    return _clip_from_shapes(tensors, size)
  need = json_config.need
  json_config.refuse_unless(
    "hidden_act", *sorted(ACTIVATIONS, reverse=True), reason="is not computed"
  )
  return CLIPTextConfig(
    depth=need("num_hidden_layers"),
    width=need("hidden_size"),
    num_heads=need("num_attention_heads"),
    mlp_width=need("intermediate_size"),
    activation=need("hidden_act", str),
    projection_dim=need("projection_dim"),
    vocab_size=need("vocab_size"),
    max_length=need("max_position_embeddings"),
    epsilon=need("layer_norm_eps", float),
  )


def clip_json(config: CLIPTextConfig) -> dict[str, Any]:
  """A `config.json` from which transformers builds the encoder."""
  end = config.vocab_size - 1
  return {
    "architectures": ["CLIPTextModelWithProjection"],
    "bos_token_id": end - 1,
    "eos_token_id": end,
    "hidden_act": config.activation,
    "hidden_size": config.width,
    "intermediate_size": config.mlp_width,
    "layer_norm_eps": config.epsilon,
    "max_position_embeddings": config.max_length,
    "model_type": "clip_text_model",
    "num_attention_heads": config.num_heads,
    "num_hidden_layers": config.depth,
    "projection_dim": config.projection_dim,
    "vocab_size": config.vocab_size,
  }


def vae_config(
  tensors: Tensors, json_config: JsonConfig | None
) -> AutoencoderConfig:
  """The autoencoder's configuration from its `config.json`, else shapes.

  Raises:
    ConversionError: fields or tensors are missing, or it is not SD3's kind.
  """
  if json_config is None:
    return _vae_from_shapes(tensors)
  _refuse_quant_convs(json_config)
  json_config.refuse_unless("act_fn", "silu", reason="is not SD3's activation")
  need = json_config.need
  channels = need("in_channels")
  json_config.refuse_unless(
    "out_channels", channels, reason="is not in_channels"
  )
  return AutoencoderConfig(
    image_channels=channels,
    latent_channels=need("latent_channels"),
    block_widths=tuple(need("block_out_channels", list)),
    layers_per_block=need("layers_per_block"),
    num_groups=need("norm_num_groups"),
    shift=need("shift_factor", float, int),
    scale=need("scaling_factor", float, int),
  )


def vae_json(config: AutoencoderConfig) -> dict[str, Any]:
  """A `config.json` from which diffusers builds the autoencoder."""
  num_blocks = len(config.block_widths)
  return {
    "_class_name": "AutoencoderKL",
    "_diffusers_version": "0.31.0",
    "act_fn": "silu",
    "block_out_channels": list(config.block_widths),
    "down_block_types": ["DownEncoderBlock2D"] * num_blocks,
    "force_upcast": True,
    "in_channels": config.image_channels,
    "latent_channels": config.latent_channels,
    "latents_mean": None,
    "latents_std": None,
    "layers_per_block": config.layers_per_block,
    "norm_num_groups": config.num_groups,
    "out_channels": config.image_channels,
    "sample_size": 1024,
    "scaling_factor": config.scale,
    "shift_factor": config.shift,
    "up_block_types": ["UpDecoderBlock2D"] * num_blocks,
    "use_post_quant_conv": False,
    "use_quant_conv": False,
  }


def _refuse_quant_convs(json_config: JsonConfig) -> None:
  """Raises if there are convolutions between autoencoder and latents."""
  for name in ("use_quant_conv", "use_post_quant_conv"):
    # Where the field is absent, diffusers takes it as true.
    if json_config.fields.get(name, True) is not False:
      raise ConversionError(
        f"{json_config.path} does not say {name} = false: SD3's autoencoder "
        "has no such convolution beside its latents, and none is computed "
        "here; give SD3's autoencoder"
      )


def _t5_from_shapes(tensors: Tensors) -> T5Config:
  vocab_size, width = shape_of(tensors, "shared.weight", 2)
  bias = _T5_BLOCK + "0.SelfAttention.relative_attention_bias.weight"
  num_buckets, num_heads = shape_of(tensors, bias, 2)
  inner, _ = shape_of(tensors, _T5_BLOCK + "0.SelfAttention.q.weight", 2)
  mlp_width, _ = shape_of(
    tensors, _T5_BLOCK + "1.DenseReluDense.wi_0.weight", 2
  )
  return T5Config(
    depth=count_numbered(tensors, "encoder.block."),
    width=width,
    num_heads=num_heads,
    head_dim=inner // num_heads,
    mlp_width=mlp_width,
    vocab_size=vocab_size,
    num_buckets=num_buckets,
  )


def _clip_from_shapes(tensors: Tensors, size: str) -> CLIPTextConfig:
  vocab_size, width = shape_of(
    tensors, "text_model.embeddings.token_embedding.weight", 2
  )
  max_length, _ = shape_of(
    tensors, "text_model.embeddings.position_embedding.weight", 2
  )
  mlp_width, _ = shape_of(tensors, _CLIP_LAYERS + "0.mlp.fc1.weight", 2)
  projection_dim = width
  if "text_projection.weight" in tensors:
    projection_dim, _ = shape_of(tensors, "text_projection.weight", 2)
  if width % _CLIP_HEAD_DIM:
    raise ConversionError(
      f"CLIP's width {width} is not a multiple of {_CLIP_HEAD_DIM}"
    )
  return CLIPTextConfig(
    depth=count_numbered(tensors, _CLIP_LAYERS),
    width=width,
    num_heads=width // _CLIP_HEAD_DIM,
    mlp_width=mlp_width,
    activation=CLIP_SIZES[size].activation,
    projection_dim=projection_dim,
    vocab_size=vocab_size,
    max_length=max_length,
  )


def _vae_from_shapes(tensors: Tensors) -> AutoencoderConfig:
  num_blocks = count_numbered(tensors, "encoder.down.")
  widths = [
    shape_of(tensors, f"encoder.down.{i}.block.0.conv1.weight", 4)[0]
    for i in range(num_blocks)
  ]
  _, image_channels, _, _ = shape_of(tensors, "encoder.conv_in.weight", 4)
  _, latent_channels, _, _ = shape_of(tensors, "decoder.conv_in.weight", 4)
  return AutoencoderConfig(
    image_channels=image_channels,
    latent_channels=latent_channels,
    block_widths=tuple(widths),
    layers_per_block=count_numbered(tensors, "encoder.down.0.block."),
  )
