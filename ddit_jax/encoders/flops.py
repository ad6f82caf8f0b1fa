"""Floating-point operations of T5, CLIP and the autoencoder's encoder."""

import dataclasses

from ddit_jax.encoders.clip_vision import CLIPVisionConfig
from ddit_jax.encoders.t5 import T5Config
from ddit_jax.encoders.vae import AutoencoderConfig
from ddit_jax.models.flops import (
  PassFlops,
  attention_flops,
  linear_flops,
  prenorm_flops,
)


def t5_flops(config: T5Config, length: int) -> PassFlops:
  """One text of `length` tokens through the T5 encoder."""
  inner = config.num_heads * config.head_dim
  attention = 4 * linear_flops(length, config.width, inner)
  mlp = 3 * linear_flops(length, config.width, config.mlp_width)
  return PassFlops(
    weights=config.depth * (attention + mlp),
    activations=config.depth * attention_flops(length, inner),
  )


def clip_vision_flops(config: CLIPVisionConfig) -> PassFlops:
  """One image through CLIP's blocks; the pooled output is not read."""
  blocks = prenorm_flops(
    config.depth, config.width, config.mlp_width, config.num_tokens
  )
  patches = linear_flops(
    config.num_tokens - 1, 3 * config.patch_size**2, config.width
  )
  return dataclasses.replace(blocks, weights=blocks.weights + patches)


def vae_encoder_flops(config: AutoencoderConfig, side: int) -> PassFlops:
  """One square image of `side` pixels to its posterior.

  Raises:
    ValueError: the side is not a multiple of `config.downsampling`.
  """
  if side % config.downsampling or side < 1:
    raise ValueError(
      f"images of {side} pixels cannot be encoded: choose a multiple of "
      f"{config.downsampling}"
    )
  widths = config.block_widths
  weights = _conv(side, config.image_channels, widths[0])
  channels = widths[0]
  for level, width in enumerate(widths):
    for _ in range(config.layers_per_block):
      weights += _resnet(side, channels, width)
      channels = width
    if level < len(widths) - 1:
      side //= 2
      weights += _conv(side, width, width)
  weights += 2 * _resnet(side, channels, channels)
  weights += linear_flops(side**2, channels, 4 * channels)
  weights += _conv(side, channels, 2 * config.latent_channels)
  return PassFlops(
    weights=weights, activations=attention_flops(side**2, channels)
  )


def _conv(side: int, inputs: int, outputs: int, kernel: int = 3) -> int:
  """A square convolution with `side` ** 2 outputs; padding counts as pixels."""
  return linear_flops(side**2, kernel**2 * inputs, outputs)


def _resnet(side: int, inputs: int, outputs: int) -> int:
  flops = _conv(side, inputs, outputs) + _conv(side, outputs, outputs)
  if inputs != outputs:
    flops += _conv(side, inputs, outputs, kernel=1)
  return flops
