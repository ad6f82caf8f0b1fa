"""The start of the text stream when there is no text encoder."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class TokenEmbedding(nn.Module):
  """Learned token and position embeddings (End-to-End variant, Table 9).

  Attributes:
    vocab_size: number of token ids.
    max_length: rows of the position table.
    width: features of a token.
    dtype: dtype of the result.
  """

  vocab_size: int
  max_length: int
  width: int
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self, tokens: Int[Array, "batch length"]
  ) -> Float[Array, "batch length features"]:
    """Raises ValueError if the text is longer than the position table."""
    length = tokens.shape[1]
    if length > self.max_length:
      raise ValueError(
        f"text of {length} tokens but the network was built for "
        f"max_text_length {self.max_length}: shorten the text"
      )
    table = self.param(
      "tokens",
      nn.with_logical_partitioning(
        nn.initializers.normal(1.0 / self.width**0.5), ("vocab", "embed")
      ),
      (self.vocab_size, self.width),
      jnp.float32,
    )
    positions = self.param(
      "positions",
      nn.with_logical_partitioning(
        nn.initializers.normal(1.0 / self.width**0.5), ("tokens", "embed")
      ),
      (self.max_length, self.width),
      jnp.float32,
    )
    embedded = jnp.take(table, tokens, axis=0) + positions[None, :length]
    # Tokens enter at unit scale, as a text encoder's normed features do.
    unit_scale = jax.lax.rsqrt(jnp.float32(2.0 / self.width))
    return (embedded * unit_scale).astype(self.dtype)
