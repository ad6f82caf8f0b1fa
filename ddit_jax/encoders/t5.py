"""The encoder of T5 v1.1, whose features condition the MM-DiT on text."""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from ddit_jax.encoders.int8 import Int8Linear
from ddit_jax.encoders.t5_attention import biased_attention
from ddit_jax.errors import check_bounds
from ddit_jax.models.config import MAX_DEPTH, MAX_WIDTH
from ddit_jax.models.layers import (
  RMSNorm,
  checked_dtype,
  for_products,
  for_stream,
  from_heads,
  linear,
)
from ddit_jax.models.module import PureModule
from ddit_jax.sharding.rules import constrain, num_shards

_Offsets = Int[np.ndarray, "*dims"]


def relative_buckets(
  offset: _Offsets, *, num_buckets: int, max_distance: int
) -> _Offsets:
  """Bidirectional buckets of key minus query positions (T5, section 2.1).

  The upper half of the buckets is for keys after the query. Within a half,
  short distances have a bucket each, widths grow logarithmically up to
  `max_distance`, and all greater distances share the last bucket.

  Args:
    offset: key minus query positions, in tokens.
    num_buckets: a multiple of four.
    max_distance: in tokens; above num_buckets / 4.
  """
  distance = np.abs(offset)
  half = num_buckets // 2
  exact = half // 2
  # float32 as in T5's code: bucket edges depend on the rounding.
  growth = np.log(np.maximum(distance, 1).astype(np.float32) / exact)
  growth = growth / np.float32(math.log(max_distance / exact))
  logarithmic = exact + (growth * (half - exact)).astype(np.int32)
  bucket = np.where(
    distance < exact, distance, np.minimum(logarithmic, half - 1)
  )
  return (bucket + half * (offset > 0)).astype(np.int32)


_Tokens = Float[Array, "batch length width"]
_Bias = Float[Array, "1 heads queries keys"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class T5Config:
  """Shapes of one T5 v1.1 encoder.

  Attributes:
    depth: number of blocks.
    width: features of a token (`d_model`).
    num_heads: attention heads.
    head_dim: features of a head (`d_kv`); num_heads * head_dim need not be
      `width`.
    mlp_width: hidden features of the gated MLP (`d_ff`).
    vocab_size: rows of the embedding table, more than the tokenizer has ids.
    num_buckets: relative-position buckets, a multiple of four.
    max_distance: distance in tokens from which on all share one bucket.
    epsilon: added to the mean square in the norms.
  """

  depth: int
  width: int
  num_heads: int
  head_dim: int
  mlp_width: int
  vocab_size: int = 32128
  num_buckets: int = 32
  max_distance: int = 128
  epsilon: float = 1e-6

  def __post_init__(self):
    check_bounds(
      self,
      depth=MAX_DEPTH,
      width=MAX_WIDTH,
      num_heads=MAX_WIDTH,
      head_dim=MAX_WIDTH,
      mlp_width=MAX_WIDTH,
      vocab_size=2**24,
      num_buckets=2**16,
    )
    if self.num_buckets % 4 or self.num_buckets < 4:
      raise ValueError(
        f"num_buckets must be a positive multiple of 4: {self.num_buckets}"
      )
    if self.max_distance <= self.num_buckets // 4:
      raise ValueError(
        f"max_distance {self.max_distance} must exceed a quarter of "
        f"num_buckets {self.num_buckets}"
      )


def _size(depth: int, width: int, num_heads: int, mlp_width: int) -> T5Config:
  return T5Config(
    depth=depth,
    width=width,
    num_heads=num_heads,
    head_dim=64,
    mlp_width=mlp_width,
  )


# The published v1.1 sizes; SD3 and D-DiT use "xxl".
T5_SIZES: dict[str, T5Config] = {
  "small": _size(8, 512, 6, 1024),
  "base": _size(12, 768, 12, 2048),
  "large": _size(24, 1024, 16, 2816),
  "xl": _size(24, 2048, 32, 5120),
  "xxl": _size(24, 4096, 64, 10240),
}


class _Block(nn.Module):
  """Self-attention and a gated MLP, each on normed tokens and added back.

  Attributes:
    config: shapes.
    dtype: dtype of the computation.
    has_int8_kernels: True keeps the kernels as int8, see `int8`.
  """

  config: T5Config
  dtype: DTypeLike = jnp.float32
  has_int8_kernels: bool = False

  @nn.compact
  def __call__(self, tokens: _Tokens, bias: _Bias) -> tuple[_Tokens, None]:
    """Tokens to tokens; the None is for `nn.scan`."""
    normed = self._norm("attention_norm")(tokens)
    attended = self._attention(for_products(normed), bias)
    tokens = tokens + for_stream(attended)
    normed = self._norm("mlp_norm")(tokens)
    tokens = tokens + for_stream(self._gated_mlp(for_products(normed)))
    return for_stream(tokens), None

  def _norm(self, name: str) -> RMSNorm:
    return RMSNorm(axis_name="width", epsilon=self.config.epsilon, name=name)

  def _attention(self, tokens: _Tokens, bias: _Bias) -> _Tokens:
    cfg = self.config
    project = self._linear(
      "qkv",
      (3, cfg.num_heads, cfg.head_dim),
      ("embed", "rows", "heads", "head_dim"),
      kernel_init=_qkv_init(cfg.head_dim),
    )
    if num_shards("tokens") == 1:
      # A TPU's compiler then puts the tokens of all texts along the lanes of
      # its registers, which the features of a head fill by half.
      rows = project(tokens.reshape(-1, cfg.width))
      rows = jax.lax.optimization_barrier(rows)
      qkv = rows.reshape(*tokens.shape[:2], *rows.shape[1:])
    else:
      qkv = project(tokens)
    qkv = constrain(qkv, "batch", "tokens", "rows", "heads", "head_dim")
    out = self._linear(
      "out", (cfg.width,), ("heads", "head_dim", "embed"), axis=(-2, -1)
    )
    return out(biased_attention(qkv, bias))

  def _gated_mlp(self, tokens: _Tokens) -> _Tokens:
    cfg = self.config
    # Two kernels: a TPU copies one of [width, 2, mlp_width] before it reads it.
    gate, hidden = (
      constrain(
        self._linear(name, (cfg.mlp_width,), ("embed", "mlp"))(tokens),
        *("batch", "tokens", "mlp"),
      )
      for name in ("mlp_gate", "mlp_in")
    )
    narrow = self._linear("mlp_out", (cfg.width,), ("mlp", "embed"))
    return narrow(nn.gelu(gate, approximate=True) * hidden)

  def _linear(
    self,
    name: str,
    features: tuple[int, ...],
    axes: tuple[str, ...],
    *,
    axis: tuple[int, ...] = (-1,),
    kernel_init=None,
  ) -> nn.Module:
    """A linear map without a bias, see `linear`."""
    if self.has_int8_kernels:
      return Int8Linear(features, axis, axes, self.dtype, name=name)
    return linear(
      features,
      axes,
      name=name,
      dtype=self.dtype,
      axis=axis,
      kernel_init=kernel_init,
      use_bias=False,
      product=from_heads if len(axis) > 1 else None,
    )


class T5Encoder(nn.Module):
  """Token ids to features; every token attends to every other, padding too.

  Attributes:
    config: shapes.
    dtype: dtype of the computation, "float32" or "bfloat16".
    has_remat: True recomputes each block in the backward pass.
    has_int8_kernels: True keeps the kernels as int8, see `int8`.
  """

  config: T5Config
  dtype: str = "float32"
  has_remat: bool = False
  has_int8_kernels: bool = False

  def setup(self):
    cfg = self.config
    dtype = checked_dtype(self.dtype)
    self.token_embedding = self.param(
      "token_embedding",
      nn.with_logical_partitioning(
        nn.initializers.normal(1.0), ("vocab", "embed")
      ),
      (cfg.vocab_size, cfg.width),
      jnp.float32,
    )
    self.position_bias = self.param(
      "position_bias",
      nn.with_logical_partitioning(
        nn.initializers.normal(cfg.width**-0.5), (None, "heads")
      ),
      (cfg.num_buckets, cfg.num_heads),
      jnp.float32,
    )
    block = nn.remat(_Block, prevent_cse=False) if self.has_remat else _Block
    self.blocks = nn.scan(
      block,
      variable_axes={"params": 0},
      split_rngs={"params": True},
      in_axes=nn.broadcast,
      length=cfg.depth,
      metadata_params={nn.PARTITION_NAME: "layers"},
    )(cfg, dtype, self.has_int8_kernels)
    self.final_norm = RMSNorm(axis_name="width", epsilon=cfg.epsilon)

  def __call__(self, ids: Int[Array, "batch length"]) -> _Tokens:
    """Features after the final norm, in the dtype of the computation.

    Raises:
      ValueError: the ids are not integers of shape [batch, length].
    """
    return self.encode_embedded(self.embed(ids))

  def embed(self, ids: Int[Array, "batch length"]) -> _Tokens:
    """Rows of the embedding table, unscaled; an id above it gives NaN."""
    if ids.ndim != 2 or not jnp.issubdtype(ids.dtype, jnp.integer):
      raise ValueError(
        "T5 takes integer token ids of shape [batch, length], got "
        f"{ids.dtype} of shape {ids.shape}"
      )
    rows = jnp.take(self.token_embedding, ids, axis=0)
    return rows.astype(jnp.dtype(self.dtype))

  def encode_embedded(self, embedded: _Tokens) -> _Tokens:
    """Features of embedded tokens, some of which may have been replaced."""
    tokens = for_stream(embedded)
    tokens, _ = self.blocks(tokens, self._scores_bias(tokens.shape[1]))
    return self.final_norm(tokens)

  def _scores_bias(self, length: int) -> _Bias:
    """The bias of all blocks' attention scores, float32."""
    cfg = self.config
    positions = np.arange(length)
    buckets = relative_buckets(
      positions[None, :] - positions[:, None],
      num_buckets=cfg.num_buckets,
      max_distance=cfg.max_distance,
    )
    table = jnp.asarray(self.position_bias, jnp.float32)
    bias = jnp.take(table, buckets, axis=0)
    return bias.transpose(2, 0, 1)[None]


def t5_encoder(
  config: T5Config,
  *,
  dtype: str = "float32",
  parameter_dtype: str = "float32",
  has_remat: bool = False,
  has_int8_kernels: bool = False,
) -> PureModule:
  """`T5Encoder` as pure functions: `apply(variables, ids)` gives features.

  Args:
    config: shapes, for example `T5_SIZES["xxl"]`.
    dtype: dtype of the computation, "float32" or "bfloat16".
    parameter_dtype: dtype of the stored parameters, of the same two.
    has_remat: True recomputes each block in the backward pass.
    has_int8_kernels: True keeps the kernels as int8 whatever `parameter_dtype`
      is, and can only be frozen, see `int8`.

  Raises:
    ValueError: another dtype, such as float16.
  """
  checked_dtype(dtype)
  return PureModule(
    module=T5Encoder(config, dtype, has_remat, has_int8_kernels),
    example_inputs=(jax.ShapeDtypeStruct((1, 1), jnp.int32),),
    parameter_dtype=parameter_dtype,
  )


def _qkv_init(head_dim: int):
  """Lecun-normal, with queries divided by sqrt(head_dim).

  This replaces the scale of the scores, as in T5's initialisation.
  """
  lecun = nn.initializers.lecun_normal()

  def init(key, shape, dtype):
    kernel = lecun(key, shape, dtype).reshape(shape[0], 3, -1)
    return kernel.at[:, 0].divide(head_dim**0.5).reshape(shape)

  return init
