"""Latent images to patch tokens and back."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from ddit_jax.models.layers import linear


def split_patches(
  latents: Float[Array, "batch height width channels"], patch_size: int
) -> Float[Array, "batch tokens contents"]:
  """Cuts images into patches, row by row; contents run (row, column, channel).

  Raises:
    ValueError: the patch size does not divide height and width.
  """
  batch, height, width, channels = latents.shape
  if height % patch_size or width % patch_size:
    raise ValueError(
      f"latents of {height} x {width} cannot be cut into patches of side "
      f"{patch_size}: make both sides multiples of it"
    )
  rows, columns = height // patch_size, width // patch_size
  x = latents.reshape(batch, rows, patch_size, columns, patch_size, channels)
  x = x.transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(batch, rows * columns, patch_size**2 * channels)


def join_patches(
  tokens: Float[Array, "batch tokens contents"],
  *,
  grid: tuple[int, int],
  patch_size: int,
) -> Float[Array, "batch height width channels"]:
  """The inverse of `split_patches` for a grid of (rows, columns)."""
  batch, _, contents = tokens.shape
  rows, columns = grid
  channels = contents // patch_size**2
  x = tokens.reshape(batch, rows, columns, patch_size, patch_size, channels)
  x = x.transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(batch, rows * patch_size, columns * patch_size, channels)


class PatchEmbedding(nn.Module):
  """A strided convolution written as one linear map of each patch.

  Attributes:
    width: features of a token.
    patch_size: side of a patch in latent pixels.
    dtype: dtype of the computation.
  """

  width: int
  patch_size: int
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self, latents: Float[Array, "batch height width channels"]
  ) -> Float[Array, "batch tokens features"]:
    patches = split_patches(latents.astype(self.dtype), self.patch_size)
    project = linear(
      self.width, ("channels", "embed"), name="project", dtype=self.dtype
    )
    return project(patches)
