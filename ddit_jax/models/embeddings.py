"""Embeddings of patches, positions, tokens, times and pooled text."""

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from ddit_jax.models.layers import linear


def split_patches(
  latents: Float[Array, "batch height width channels"], patch_size: int
) -> Float[Array, "batch tokens patch_dim"]:
  """Splits images into patches in row-major order.

  Each patch is flattened in the order (row, column, channel).

  Raises:
    ValueError: the patch size does not divide height and width.
  """
  _, height, width, _ = latents.shape
  if height % patch_size or width % patch_size:
    raise ValueError(
      f"latents of {height} x {width} cannot be split into patches of side "
      f"{patch_size}: make both sides multiples of it"
    )
  return einops.rearrange(
    latents,
    "batch (rows y) (columns x) channels -> "
    "batch (rows columns) (y x channels)",
    y=patch_size,
    x=patch_size,
  )


def join_patches(
  tokens: Float[Array, "batch tokens patch_dim"],
  *,
  grid: tuple[int, int],
  patch_size: int,
) -> Float[Array, "batch height width channels"]:
  """The inverse of `split_patches` for a grid of (rows, columns)."""
  rows, columns = grid
  return einops.rearrange(
    tokens,
    "batch (rows columns) (y x channels) -> "
    "batch (rows y) (columns x) channels",
    rows=rows,
    columns=columns,
    y=patch_size,
    x=patch_size,
  )


class PatchEmbedding(nn.Module):
  """Patches to tokens: a strided convolution written as a linear map.

  Attributes:
    width: features of a token.
    patch_size: side of a patch in latent pixels.
    dtype: dtype of the computation.
  """

  width: int
  patch_size: int
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(
    self, latents: Float[Array, "batch height width channels"]
  ) -> Float[Array, "batch tokens features"]:
    patches = split_patches(latents.astype(self.dtype), self.patch_size)
    project = linear(
      self.width, ("channels", "embed"), name="project", dtype=self.dtype
    )
    return project(patches)


def sine_cosine_table(
  grid: int, width: int, base_grid: int
) -> Float[np.ndarray, "grid grid width"]:
  """SD3's initial position table.

  The first half of the features encodes the column, the second the row; each
  half is sines, then cosines.

  Args:
    grid: side of the table in patches.
    width: features, a multiple of four.
    base_grid: positions are `index * base_grid / grid`.

  Returns:
    float32 array indexed (row, column, feature).
  """
  positions = np.arange(grid, dtype=np.float64) * (base_grid / grid)
  frequencies = 1 / 10000 ** (np.arange(width // 4) / (width // 4))
  angles = positions[:, None] * frequencies
  one_axis = np.concatenate([np.sin(angles), np.cos(angles)], axis=-1)
  shape = (grid, grid, width // 2)
  column = np.broadcast_to(one_axis[None, :], shape)
  row = np.broadcast_to(one_axis[:, None], shape)
  return np.concatenate([column, row], axis=-1).astype(np.float32)


def centred_crop(
  table: Float[Array | np.ndarray, "grid grid width"], rows: int, columns: int
) -> Float[Array | np.ndarray, "1 tokens width"]:
  """The middle `rows` x `columns` of the table, flattened in row-major order.

  Raises:
    ValueError: the image needs more patches than the table has.
  """
  grid = table.shape[0]
  if rows > grid or columns > grid:
    raise ValueError(
      f"the image has {rows} x {columns} patches but the position table has "
      f"only {grid} x {grid}: use a smaller image or a larger max_grid"
    )
  top, left = (grid - rows) // 2, (grid - columns) // 2
  crop = table[top : top + rows, left : left + columns]
  return crop.reshape(1, rows * columns, table.shape[-1])


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
  dtype: DTypeLike = jnp.float32

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
        nn.initializers.normal(1.0 / self.width**0.5), ("positions", "embed")
      ),
      (self.max_length, self.width),
      jnp.float32,
    )
    embedded = jnp.take(table, tokens, axis=0) + positions[None, :length]
    # Tokens enter at unit scale, like the normalised features of T5.
    unit_scale = jax.lax.rsqrt(jnp.float32(2.0 / self.width))
    return (embedded * unit_scale).astype(self.dtype)


# Channels of the time embedding's sinusoids.
SINUSOID_CHANNELS = 256
# SD3 was trained on times in 0..1000.
TIME_SCALE = 1000.0


def sinusoid(
  sigma: Float[Array, " batch"], channels: int = SINUSOID_CHANNELS
) -> Float[Array, "batch channels"]:
  """Cosines, then sines, of 1000 * sigma at periods up to 2 pi * 10,000."""
  half = channels // 2
  # In float64, because TIME_SCALE amplifies the error of a frequency.
  frequencies = (10000.0 ** -(np.arange(half) / half)).astype(np.float32)
  scaled = TIME_SCALE * sigma.astype(jnp.float32)
  angles = scaled[:, None] * frequencies[None, :]
  return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


class VectorEmbedding(nn.Module):
  """Linear, SiLU, Linear: one vector per example to the network's width.

  Attributes:
    width: features of the result.
    dtype: dtype of the computation.
  """

  width: int
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(
    self, vector: Float[Array, "batch channels"]
  ) -> Float[Array, "batch features"]:
    first = linear(
      self.width, ("channels", "embed"), name="linear_1", dtype=self.dtype
    )
    second = linear(
      self.width, ("embed", "width"), name="linear_2", dtype=self.dtype
    )
    return second(nn.silu(first(vector.astype(self.dtype))))
