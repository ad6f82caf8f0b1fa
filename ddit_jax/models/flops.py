"""Floating-point operations of one pass, computed from the shapes."""

import dataclasses
import math

from ddit_jax.models.config import MMDiTConfig
from ddit_jax.models.embeddings import SINUSOID_CHANNELS
from ddit_jax.models.gpt2 import GPT2Config

_HEADS = ("image", "text")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PassFlops:
  """Model FLOPs of one example.

  A multiply-add is two operations. Matrix products, convolutions and attention
  count. Norms, activations, embedding look-ups and recomputation
  (rematerialisation) do not.

  Attributes:
    weights: products with weights, forward.
    activations: products of two activations, forward: attention scores and
      attended values.
  """

  weights: int
  activations: int

  @property
  def forward(self) -> int:
    """The forward pass."""
    return self.weights + self.activations

  @property
  def trained(self) -> int:
    """The forward pass and the gradients of weights and inputs.

    A product has two factors, and the gradient of each factor costs one more
    product of the same size: three times the forward pass.
    """
    return 3 * self.forward

  @property
  def passed_through(self) -> int:
    """The forward pass and the gradients of inputs, past frozen weights.

    A frozen weight needs no gradient, so its product counts twice. Both
    factors of an attention product need one, so it counts three times.
    """
    return 2 * self.weights + 3 * self.activations


def linear_flops(rows: int, inputs: int, outputs: int) -> int:
  """[rows, inputs] times [inputs, outputs]."""
  return 2 * rows * inputs * outputs


def attention_flops(tokens: int, width: int) -> int:
  """Scores and attended values of all heads; every token sees all tokens."""
  return 2 * linear_flops(tokens, width, tokens)


def prenorm_flops(
  depth: int, width: int, mlp_width: int, tokens: int
) -> PassFlops:
  """One sequence through the blocks of CLIP or of GPT-2.

  Attention counts in full, although a causal mask hides half of it.
  """
  weights = linear_flops(tokens, width, 4 * width + 2 * mlp_width)
  return PassFlops(
    weights=depth * weights, activations=depth * attention_flops(tokens, width)
  )


def gpt2_flops(config: GPT2Config, *, tokens: int, logits: int) -> PassFlops:
  """One sequence of `tokens` through GPT-2, with `logits` of them read."""
  blocks = prenorm_flops(config.depth, config.width, config.mlp_width, tokens)
  head = linear_flops(logits, config.width, config.vocab_size)
  return dataclasses.replace(blocks, weights=blocks.weights + head)


def mmdit_flops(
  config: MMDiTConfig,
  *,
  grid: tuple[int, int] | None,
  text_length: int,
  heads: tuple[str, ...] = _HEADS,
) -> PassFlops:
  """One example through the MM-DiT.

  Args:
    config: shapes.
    grid: (rows, columns) of patches; None is the learned null image alone.
    text_length: tokens of the text.
    heads: which outputs are used; the image loss uses no logits, the text
      loss no velocity. All blocks count in full, although the last one could
      skip what the unused stream does after the attention.

  Raises:
    ValueError: a head is unknown.
  """
  if set(heads) - set(_HEADS):
    raise ValueError(f"heads must be among {_HEADS}, got {heads}")
  num_image = config.num_null_image_tokens if grid is None else math.prod(grid)
  tokens = num_image + text_length
  weights = _inputs(config, 0 if grid is None else num_image, text_length)
  weights += config.depth * _block(config, tokens)
  if not config.is_last_text_block_full:
    weights -= _missing_in_last_text_block(config, text_length)
  if "image" in heads and grid is not None:
    weights += _image_head(config, num_image)
  if "text" in heads:
    weights += linear_flops(text_length, config.width, config.vocab_size)
  return PassFlops(
    weights=weights,
    activations=config.depth * attention_flops(tokens, config.width),
  )


def _inputs(config: MMDiTConfig, num_patches: int, text_length: int) -> int:
  """Patch, text, time and pooled-text embeddings."""
  width = config.width
  patches = linear_flops(num_patches, _patch_dim(config), width)
  # Without a text encoder, tokens are looked up, which is not a product.
  text = linear_flops(text_length, config.context_dim or 0, width)
  vectors = linear_flops(1, SINUSOID_CHANNELS, width)
  vectors += linear_flops(1, width, width)
  if config.pooled_dim:
    vectors += linear_flops(1, config.pooled_dim, width)
    vectors += linear_flops(1, width, width)
  return patches + text + vectors


def _block(config: MMDiTConfig, tokens: int) -> int:
  """Both streams of one block: modulation, q, k, v, output, MLP."""
  width = config.width
  modulation = len(_HEADS) * linear_flops(1, width, 6 * width)
  attention = linear_flops(tokens, width, 4 * width)
  return modulation + attention + _mlp(config, tokens)


def _mlp(config: MMDiTConfig, tokens: int) -> int:
  hidden = config.mlp_ratio * config.width
  return 2 * linear_flops(tokens, config.width, hidden)


def _missing_in_last_text_block(config: MMDiTConfig, text_length: int) -> int:
  """Parts that SD3's last text block lacks: output, MLP, four modulations."""
  width = config.width
  output = linear_flops(text_length, width, width)
  return output + _mlp(config, text_length) + linear_flops(1, width, 4 * width)


def _image_head(config: MMDiTConfig, num_patches: int) -> int:
  width = config.width
  project = linear_flops(num_patches, width, _patch_dim(config))
  return linear_flops(1, width, 2 * width) + project


def _patch_dim(config: MMDiTConfig) -> int:
  return config.patch_size**2 * config.latent_channels
