"""The two outputs: image velocity and text logits."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from ddit_jax.models.joint_block import Modulation, modulate
from ddit_jax.models.layers import layer_norm, linear


class ImageHead(nn.Module):
  """Final adaLN (scale and shift, no gate) and a linear map to patches.

  Attributes:
    contents: numbers in a patch, patch_size ** 2 * channels.
    dtype: dtype of the computation.
  """

  contents: int
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self,
    tokens: Float[Array, "batch tokens width"],
    vector: Float[Array, "batch width"],
  ) -> Float[Array, "batch tokens contents"]:
    modulation = Modulation(
      rows=2, width=tokens.shape[-1], dtype=self.dtype, name="modulation"
    )
    scale, shift = modulation(vector)
    project = linear(
      self.contents,
      ("embed", "channels"),
      name="project",
      dtype=self.dtype,
      kernel_init=nn.initializers.zeros_init(),
    )
    return project(modulate(tokens, shift, scale))


class TextHead(nn.Module):
  """LayerNorm and a linear map to the vocabulary; time does not enter.

  Attributes:
    vocab_size: one logit per tokenizer id.
    dtype: dtype of the computation.
  """

  vocab_size: int
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self, tokens: Float[Array, "batch length width"]
  ) -> Float[Array, "batch length vocab"]:
    project = linear(
      self.vocab_size,
      ("embed", "vocab"),
      name="project",
      dtype=self.dtype,
      kernel_init=nn.initializers.zeros_init(),
    )
    return project(layer_norm(tokens))
