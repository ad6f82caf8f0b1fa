"""One MM-DiT block: two token streams, one attention over both."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from ddit_jax.models.attention import (
  ATTENTION,
  AttentionKernel,
  Heads,
  StackedHeads,
  choose_kernel,
  joint_attention,
)
from ddit_jax.models.config import MMDiTConfig
from ddit_jax.models.layers import (
  LinearToHeads,
  RMSNorm,
  for_products,
  for_stream,
  from_heads,
  layer_norm,
  linear,
)
from ddit_jax.sharding.rules import constrain

# `_`: the two streams may differ in length.
Tokens = Float[Array, "batch _ width"]
Vector = Float[Array, "batch width"]

# Remat names of a block's matrix products and of its attention, but for the
# queries, keys and values.
MODULATION, OUT = "modulation", "attention_out"
MLP_IN, MLP_OUT = "mlp_in", "mlp_out"
SAVABLE = (MODULATION, ATTENTION, OUT, MLP_IN, MLP_OUT)


def modulate(tokens: Tokens, shift: Vector, scale: Vector) -> Tokens:
  """Normed tokens, scaled by 1 + scale and shifted."""
  return layer_norm(tokens) * (1 + scale[:, None]) + shift[:, None]


class Modulation(nn.Module):
  """adaLN: SiLU and a linear map of the time vector to `rows` vectors.

  Attributes:
    rows: how many vectors; six are shift, scale, gate of the attention, then
      of the MLP; two are scale, shift.
    width: features of each.
    gate_init: initial bias of the gates, rows 2 and 5 of six.
    dtype: dtype of the computation.
  """

  rows: int
  width: int
  gate_init: float = 0.0
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, vector: Float[Array, "batch features"]) -> list[Vector]:
    def bias_init(_, shape, dtype):
      # Flax initialises a flat bias and reshapes it afterwards.
      bias = jnp.zeros((self.rows, self.width), dtype)
      if self.rows == 6:
        bias = bias.at[2::3].set(self.gate_init)
      return bias.reshape(shape)

    project = linear(
      (self.rows, self.width),
      ("embed", "rows", "modulation"),
      name="project",
      dtype=self.dtype,
      kernel_init=nn.initializers.zeros_init(),
      bias_init=bias_init,
    )
    rows = constrain(project(nn.silu(vector)), "batch", "rows", "width")
    rows = checkpoint_name(rows, MODULATION)
    return [rows[:, i] for i in range(self.rows)]


class Mlp(nn.Module):
  """Linear, GELU (tanh approximation), Linear.

  Attributes:
    width: features in and out.
    hidden: features between.
    dtype: dtype of the computation.
  """

  width: int
  hidden: int
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, tokens: Tokens) -> Tokens:
    widen = linear(self.hidden, ("embed", "mlp"), name="in", dtype=self.dtype)
    narrow = linear(self.width, ("mlp", "embed"), name="out", dtype=self.dtype)
    hidden = constrain(widen(tokens), "batch", "tokens", "mlp")
    hidden = nn.gelu(checkpoint_name(hidden, MLP_IN), approximate=True)
    return narrow(hidden)


class Stream(nn.Module):
  """The weights of one stream in a block: modulation, q, k, v, output, MLP.

  Attributes:
    config: shapes.
    is_full: False stops after q, k, v (SD3's last text block).
    dtype: dtype of the computation.
    merges_heads: see `LinearToHeads`.
  """

  config: MMDiTConfig
  is_full: bool = True
  dtype: DTypeLike = jnp.float32
  merges_heads: bool = False

  def setup(self):
    cfg = self.config
    self.modulation = Modulation(
      rows=6 if self.is_full else 2,
      width=cfg.width,
      gate_init=cfg.gate_init,
      dtype=self.dtype,
    )
    self.qkv = LinearToHeads(
      (3, cfg.num_heads, cfg.head_dim),
      dtype=self.dtype,
      merges_heads=self.merges_heads,
    )
    if cfg.has_qk_norm:
      self.query_norm = RMSNorm(axis_name="head_dim")
      self.key_norm = RMSNorm(axis_name="head_dim")
    if self.is_full:
      self.out = linear(
        cfg.width,
        ("heads", "head_dim", "embed"),
        name="out",
        dtype=self.dtype,
        axis=(-2, -1),
        product=from_heads if self.merges_heads else None,
      )
      self.mlp = Mlp(
        width=cfg.width, hidden=cfg.mlp_ratio * cfg.width, dtype=self.dtype
      )

  def queries_keys_values(
    self, tokens: Tokens, vector: Vector
  ) -> tuple[StackedHeads, list[Vector]]:
    """Their stack, and the modulation vectors still needed by `add_results`."""
    rows = self.modulation(vector)
    if self.is_full:
      shift, scale, *later = rows
    else:
      (scale, shift), later = rows, []
    qkv = self.qkv(for_products(modulate(tokens, shift, scale)))
    qkv = constrain(qkv, "batch", "tokens", "rows", "heads", "head_dim")
    if self.config.has_qk_norm:
      query, key = self.query_norm(qkv[:, :, 0]), self.key_norm(qkv[:, :, 1])
      qkv = jnp.stack([query, key, qkv[:, :, 2]], axis=2)
    return qkv, later

  def add_results(
    self, tokens: Tokens, attended: Heads, later: list[Vector]
  ) -> Tokens:
    """Adds the gated attention output, then the gated MLP."""
    attention_gate, mlp_shift, mlp_scale, mlp_gate = later
    attended = checkpoint_name(for_stream(self.out(attended)), OUT)
    tokens = tokens + attention_gate[:, None] * attended
    normed = modulate(tokens, mlp_shift, mlp_scale)
    hidden = for_stream(self.mlp(for_products(normed)))
    hidden = checkpoint_name(hidden, MLP_OUT)
    return for_stream(tokens + mlp_gate[:, None] * hidden)


class JointBlock(nn.Module):
  """Image and text streams, modulated by time, that attend jointly.

  Attributes:
    config: shapes.
    is_text_full: False ends the text stream at this block's attention.
    dtype: dtype of the computation.
    attention_kernel: see `attention.choose_kernel`.
    keeps_image_keys: True also returns the image's keys and values.
  """

  config: MMDiTConfig
  is_text_full: bool = True
  dtype: DTypeLike = jnp.float32
  attention_kernel: str = "auto"
  keeps_image_keys: bool = False

  @nn.compact
  def __call__(
    self,
    streams: tuple[Tokens, Tokens],
    vector: Vector,
    key_mask: Bool[Array, "batch keys"] | None = None,
    is_skipped: Bool[Array, " batch"] | None = None,
    image_keys: StackedHeads | None = None,
  ) -> tuple[tuple[Tokens, Tokens], StackedHeads | None]:
    """(image, text) tokens to the same, and the image's keys and values.

    Tokens where `key_mask` is False are not attended to. Rows where
    `is_skipped` is True leave as they came. Where `image_keys` are given, the
    text attends to them, and the image leaves as it came.
    """
    image, text = streams
    kernel = self._kernel(image, text, image_keys)
    make = functools.partial(
      Stream,
      self.config,
      dtype=self.dtype,
      merges_heads=kernel == "single_block",
    )
    image_stream = make(name="image")
    text_stream = make(is_full=self.is_text_full, name="text")
    if image_keys is None:
      image_qkv, image_later = image_stream.queries_keys_values(image, vector)
    else:
      # It asks nothing.
      image_qkv = image_keys
    text_qkv, text_later = text_stream.queries_keys_values(text, vector)
    image_attended, text_attended = joint_attention(
      image_qkv, text_qkv, kernel=kernel, key_mask=key_mask
    )
    if image_keys is None:
      image = image_stream.add_results(image, image_attended, image_later)
    if self.is_text_full:
      text = text_stream.add_results(text, text_attended, text_later)
    if is_skipped is not None:
      keep = is_skipped[:, None, None]
      image = jnp.where(keep, streams[0], image)
      text = jnp.where(keep, streams[1], text)
    return (image, text), image_qkv[:, :, 1:] if self.keeps_image_keys else None

  def _kernel(
    self, image: Tokens, text: Tokens, image_keys: StackedHeads | None
  ) -> AttentionKernel:
    wanted = self.attention_kernel
    if image_keys is not None:
      # Others want as many queries as keys.
      wanted = "xla"
    elif self.is_initializing():
      # Parameters are created without the devices that a kernel may need.
      wanted = "auto"
    return choose_kernel(
      wanted,
      num_tokens=image.shape[1] + text.shape[1],
      num_heads=self.config.num_heads,
      head_dim=self.config.head_dim,
      dtype=self.dtype,
      mesh=jax.sharding.get_abstract_mesh(),
    )
