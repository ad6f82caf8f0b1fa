"""The transformer block of CLIP and of GPT-2: norms before each part."""

import dataclasses

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from ddit_jax.errors import check_bounds, check_divisible
from ddit_jax.models.config import MAX_DEPTH, MAX_WIDTH
from ddit_jax.models.layers import for_stream, layer_norm, linear
from ddit_jax.sharding.rules import constrain

_Tokens = Float[Array, "batch length width"]


def _quick_gelu(x: jax.Array) -> jax.Array:
  return x * nn.sigmoid(1.702 * x)


ACTIVATIONS = {
  "quick_gelu": _quick_gelu,
  "gelu": lambda x: nn.gelu(x, approximate=False),
  "gelu_new": lambda x: nn.gelu(x, approximate=True),
}


def check_activation(name: str) -> None:
  """Raises ValueError unless it is a key of `ACTIVATIONS`."""
  if name not in ACTIVATIONS:
    raise ValueError(
      f"activation must be one of {sorted(ACTIVATIONS)}, got {name!r}"
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreNormConfig:
  """Shapes of a stack of `PreNormBlock`.

  Attributes:
    depth: number of blocks.
    width: features of a token.
    num_heads: attention heads; divides `width`.
    mlp_width: hidden features of the MLP.
    epsilon: added to the variance in the norms.
  """

  depth: int
  width: int
  num_heads: int
  mlp_width: int
  epsilon: float = 1e-5

  def __post_init__(self):
    check_bounds(
      self,
      depth=MAX_DEPTH,
      width=MAX_WIDTH,
      num_heads=MAX_WIDTH,
      mlp_width=MAX_WIDTH,
    )
    check_divisible(self, width="num_heads")

  @property
  def head_dim(self) -> int:
    """Features of a head."""
    return self.width // self.num_heads


@flax.struct.dataclass
class KeyValues:
  """Keys and values of the tokens that a causal block has seen.

  Attributes:
    keys: of as many positions as a text may have; those to come are ignored.
      The arrays of several blocks are stacked along a first axis.
    values: likewise.
  """

  keys: Float[Array, "*blocks batch positions heads head_dim"]
  values: Float[Array, "*blocks batch positions heads head_dim"]


class LayerNorm(nn.Module):
  """LayerNorm with learned scale and bias; statistics in float32.

  Attributes:
    epsilon: added to the variance.
  """

  epsilon: float

  @nn.compact
  def __call__(self, tokens: _Tokens) -> _Tokens:
    names, shape = ("width",), tokens.shape[-1:]
    scale_init = nn.with_logical_partitioning(
      nn.initializers.ones_init(), names
    )
    bias_init = nn.with_logical_partitioning(
      nn.initializers.zeros_init(), names
    )
    scale = self.param("scale", scale_init, shape, jnp.float32)
    bias = self.param("bias", bias_init, shape, jnp.float32)
    normed = layer_norm(tokens.astype(jnp.float32), self.epsilon)
    return (normed * scale[None, None] + bias[None, None]).astype(tokens.dtype)


class PreNormBlock(nn.Module):
  """Self-attention and an MLP, each on normed tokens and added back.

  Attributes:
    num_heads: attention heads; divides the tokens' width.
    mlp_width: hidden features of the MLP.
    activation: a key of `ACTIVATIONS`.
    epsilon: added to the variance in the norms.
    is_causal: True lets a token attend to itself and those before it only.
    dtype: dtype of the computation.
  """

  num_heads: int
  mlp_width: int
  activation: str
  epsilon: float
  is_causal: bool
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(
    self,
    state: tuple[_Tokens, _Tokens],
    cache: KeyValues | None = None,
    start: Int[Array, ""] | None = None,
  ) -> tuple[tuple[_Tokens, _Tokens], KeyValues | None]:
    """(tokens, input of the previous block) to the same, one block on.

    Args:
      state: what the previous block returned.
      cache: of the tokens before these; None if these are all. The block must
        be causal.
      start: position of the first of these tokens in the cache.

    Returns:
      The next state, and the cache with these tokens, if there is one.
    """
    before, _ = state
    normed = LayerNorm(self.epsilon, name="attention_norm")(before)
    attended, cache = self._attention(normed, cache, start)
    tokens = before + attended
    normed = LayerNorm(self.epsilon, name="mlp_norm")(tokens)
    tokens = tokens + self._mlp(normed)
    return (for_stream(tokens), before), cache

  def _attention(self, tokens: _Tokens, cache, start):
    width = tokens.shape[-1]
    project = linear(
      (3, self.num_heads, width // self.num_heads),
      ("embed", "rows", "heads", "head_dim"),
      name="qkv",
      dtype=self.dtype,
    )
    qkv = project(tokens)
    qkv = constrain(qkv, "batch", "tokens", "rows", "heads", "head_dim")
    query, key, value = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
    mask = None
    if cache is not None:
      cache = _extended(cache, key, value, start)
      key, value = cache.keys, cache.values
      asking = start + jnp.arange(query.shape[1])
      mask = jnp.arange(key.shape[1])[None] <= asking[:, None]
      mask = mask[None, None]
    attended = jax.nn.dot_product_attention(
      query,
      key,
      value,
      mask=mask,
      is_causal=self.is_causal and cache is None,
      implementation="xla",
    )
    out = linear(
      width,
      ("heads", "head_dim", "embed"),
      name="out",
      dtype=self.dtype,
      axis=(-2, -1),
    )
    return out(attended), cache

  def _mlp(self, tokens: _Tokens) -> _Tokens:
    widen = linear(
      self.mlp_width, ("embed", "mlp"), name="mlp_in", dtype=self.dtype
    )
    narrow = linear(
      tokens.shape[-1], ("mlp", "embed"), name="mlp_out", dtype=self.dtype
    )
    hidden = constrain(widen(tokens), "batch", "tokens", "mlp")
    return narrow(ACTIVATIONS[self.activation](hidden))


def _extended(cache: KeyValues, key, value, start) -> KeyValues:
  """The cache with the keys and values of tokens from `start` on."""

  def written(array, new):
    new = new.astype(array.dtype)
    return jax.lax.dynamic_update_slice_in_dim(array, new, start, axis=1)

  return KeyValues(
    keys=written(cache.keys, key), values=written(cache.values, value)
  )


def scanned_blocks(
  config: PreNormConfig,
  *,
  activation: str,
  is_causal: bool,
  dtype: DTypeLike,
  name: str | None = None,
  has_remat: bool = False,
) -> nn.Module:
  """`PreNormBlock`s with stacked parameters and caches.

  They are called as one is, with the caches stacked along a first axis.

  Args:
    config: shapes.
    activation: as of `PreNormBlock`, with the next two.
    is_causal: likewise.
    dtype: likewise.
    name: in the parameter tree; None in a module's `setup`.
    has_remat: True recomputes each block in the backward pass.
  """
  block = PreNormBlock
  if has_remat:
    block = nn.remat(PreNormBlock, prevent_cse=False)
  scanned = nn.scan(
    block,
    variable_axes={"params": 0},
    split_rngs={"params": True},
    in_axes=(0, nn.broadcast),
    length=config.depth,
    metadata_params={nn.PARTITION_NAME: "layers"},
  )
  return scanned(
    num_heads=config.num_heads,
    mlp_width=config.mlp_width,
    activation=activation,
    epsilon=config.epsilon,
    is_causal=is_causal,
    dtype=dtype,
    name=name,
  )
