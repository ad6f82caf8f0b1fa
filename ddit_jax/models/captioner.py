"""A language model that continues an image's features: a prefix captioner."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ddit_jax.models.gpt2 import GPT2, GPT2Config
from ddit_jax.models.layers import checked_dtype, layer_norm, linear
from ddit_jax.models.prenorm_block import KeyValues


class Captioner(nn.Module):
  """Image features, projected, as the first tokens of GPT-2.

  Attributes:
    decoder_config: of GPT-2.
    image_encoder: what reads the images, if it is trained along; its outputs
      have `image_hidden`. None takes features.
    dtype: dtype of the computation, "float32" or "bfloat16".
    has_remat: True recomputes GPT-2's blocks in the backward pass.
  """

  decoder_config: GPT2Config
  image_encoder: nn.Module | None = None
  dtype: str = "float32"
  has_remat: bool = False

  def setup(self):
    self.projection = linear(
      self.decoder_config.width,
      ("embed", "width"),
      name="projection",
      dtype=checked_dtype(self.dtype),
    )
    self.decoder = GPT2(self.decoder_config, self.dtype, self.has_remat)

  def __call__(
    self, tokens: Int[Array, "batch length"], *image
  ) -> Float[Array, "batch length vocab"]:
    """Logits of each token, from the image and the tokens before it; float32.

    Args:
      tokens: of the texts.
      *image: see `prefix`.
    """
    prefix = self.prefix(*image)
    before = self.decoder.embed(tokens[:, :-1])
    embedded = jnp.concatenate([prefix, before], axis=1)
    hidden, _ = self.decoder.hidden(embedded)
    return self.decoder.logits(hidden[:, prefix.shape[1] - 1 :])

  def prefix(self, *image) -> Float[Array, "batch tokens width"]:
    """The first tokens, from the arguments of `image_encoder`, or features."""
    if self.image_encoder is None:
      (features,) = image
    else:
      features = self.image_encoder(*image).image_hidden
    return self.projection(layer_norm(features))

  def start(
    self, cache: KeyValues, *image
  ) -> tuple[Float[Array, "batch vocab"], KeyValues]:
    """Logits of the first token, and the cache of the image.

    Args:
      cache: an empty one.
      *image: see `prefix`.
    """
    hidden, cache = self.decoder.hidden(self.prefix(*image), cache, 0)
    return self.decoder.logits(hidden[:, -1:])[:, 0], cache

  def next(
    self,
    cache: KeyValues,
    tokens: Int[Array, " batch"],
    position: Int[Array, ""] | int,
  ) -> tuple[Float[Array, "batch vocab"], KeyValues]:
    """Logits of the token after `tokens`, and the cache with them.

    Args:
      cache: of the image and the tokens before.
      tokens: one of each text.
      position: theirs, counted from the image's first.
    """
    embedded = self.decoder.embed(tokens[:, None])
    hidden, cache = self.decoder.hidden(embedded, cache, position)
    return self.decoder.logits(hidden)[:, 0], cache
