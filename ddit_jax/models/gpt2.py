"""GPT-2, a causal language model (Radford et al. 2019)."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ddit_jax.errors import check_bounds
from ddit_jax.models.layers import checked_dtype, for_products, for_stream
from ddit_jax.models.module import PureModule
from ddit_jax.models.prenorm_block import (
  KeyValues,
  LayerNorm,
  PreNormConfig,
  scanned_blocks,
)
from ddit_jax.sharding.rules import constrain

_Tokens = Float[Array, "batch length width"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class GPT2Config(PreNormConfig):
  """Shapes of one GPT-2.

  Attributes:
    vocab_size: number of token ids.
    max_length: rows of the learned position table.
  """

  vocab_size: int = 50257
  max_length: int = 1024

  def __post_init__(self):
    super().__post_init__()
    check_bounds(self, vocab_size=2**24, max_length=2**20)


GPT2_SIZES: dict[str, GPT2Config] = {
  # The smallest published one, 124 million parameters.
  "gpt2": GPT2Config(depth=12, width=768, num_heads=12, mlp_width=3072),
  # For the digit world and dry runs.
  "tiny": GPT2Config(depth=2, width=96, num_heads=4, mlp_width=384),
}


class GPT2(nn.Module):
  """Token ids, or embeddings in their place, to logits of the next token.

  Attributes:
    config: shapes.
    dtype: dtype of the computation, "float32" or "bfloat16".
    has_remat: True recomputes each block in the backward pass.
  """

  config: GPT2Config
  dtype: str = "float32"
  has_remat: bool = False

  def setup(self):
    cfg, dtype = self.config, checked_dtype(self.dtype)
    init = nn.initializers.normal(0.02)
    self.token_embedding = self.param(
      "token_embedding",
      nn.with_logical_partitioning(init, ("vocab", "embed")),
      (cfg.vocab_size, cfg.width),
      jnp.float32,
    )
    self.position_embedding = self.param(
      "position_embedding",
      nn.with_logical_partitioning(init, ("positions", "embed")),
      (cfg.max_length, cfg.width),
      jnp.float32,
    )
    self.blocks = scanned_blocks(
      cfg,
      activation="gelu_new",
      is_causal=True,
      dtype=dtype,
      has_remat=self.has_remat,
    )
    self.final_norm = LayerNorm(cfg.epsilon)

  def __call__(
    self, ids: Int[Array, "batch length"]
  ) -> Float[Array, "batch length vocab"]:
    """Logits of the token after each, float32.

    Raises:
      ValueError: there are more tokens than positions.
    """
    hidden, _ = self.hidden(self.embed(ids))
    return self.logits(hidden)

  def embed(self, ids: Int[Array, "batch length"]) -> _Tokens:
    """Rows of the embedding table, in the dtype of the computation."""
    tokens = jnp.take(self.token_embedding, ids, axis=0)
    return tokens.astype(checked_dtype(self.dtype))

  def hidden(
    self,
    embedded: _Tokens,
    cache: KeyValues | None = None,
    start: Int[Array, ""] | int = 0,
  ) -> tuple[_Tokens, KeyValues | None]:
    """The head's input, from embeddings of tokens without their positions.

    Args:
      embedded: from `embed`, or anything of its width, as images' features.
      cache: of the tokens before these, see `empty_cache`; None if these are
        all.
      start: position of the first of these tokens.

    Returns:
      Features after the final norm, and the cache with these tokens.

    Raises:
      ValueError: there are more tokens than positions.
    """
    cfg, length = self.config, embedded.shape[1]
    if length > cfg.max_length:
      raise ValueError(
        f"{length} tokens but GPT-2 has {cfg.max_length} positions: shorten "
        "the text, or the image's part of it"
      )
    start = jnp.asarray(start, jnp.int32)
    rows = jax.lax.dynamic_slice_in_dim(self.position_embedding, start, length)
    tokens = for_stream(embedded + rows[None].astype(embedded.dtype))
    (tokens, _), cache = self.blocks((tokens, tokens), cache, start)
    return self.final_norm(tokens), cache

  def logits(self, hidden: _Tokens) -> Float[Array, "batch length vocab"]:
    """The head alone, float32; its weights are the embedding table."""
    table = self.token_embedding.astype(hidden.dtype)
    logits = jnp.einsum(
      "blw,vw->blv",
      for_products(hidden),
      table,
      preferred_element_type=jnp.float32,
    )
    return constrain(logits, "batch", "tokens", "vocab")


def empty_cache(
  config: GPT2Config, *, batch: int, length: int, dtype: str = "float32"
) -> KeyValues:
  """The cache of a text of `length` tokens, before its first."""
  shape = (config.depth, batch, length, config.num_heads, config.head_dim)
  zeros = jnp.zeros(shape, checked_dtype(dtype))
  return KeyValues(keys=zeros, values=zeros)


def gpt2(
  config: GPT2Config,
  *,
  dtype: str = "float32",
  parameter_dtype: str = "float32",
) -> PureModule:
  """`GPT2` as pure functions: `apply(variables, ids)` gives logits.

  Args:
    config: shapes, for example `GPT2_SIZES["gpt2"]`.
    dtype: dtype of the computation, "float32" or "bfloat16".
    parameter_dtype: dtype of the stored parameters, of the same two.

  Raises:
    ValueError: another dtype, such as float16.
  """
  checked_dtype(dtype)
  return PureModule(
    module=GPT2(config, dtype),
    example_inputs=(jax.ShapeDtypeStruct((1, 1), jnp.int32),),
    parameter_dtype=parameter_dtype,
  )
