"""What one step's examples hold: the contract of data and training."""

import flax.struct
from jaxtyping import Array, Bool, Float, Int, UInt8

# Pixels 0..255, [batch, height, width, 3]; or, from a cache, the moments of
# their posterior, [batch, rows, columns, 2 * channels]: the mean, then the
# logarithm of the variance, before `AutoencoderConfig.to_network`.
Pictures = UInt8[Array, "..."] | Float[Array, "..."]


@flax.struct.dataclass
class TextToImageBatch:
  """Examples of the image loss.

  Attributes:
    images: see `Pictures`.
    tokens: the clean caption, padded, [batch, length].
    features: the text encoder's of `tokens`, from a cache, [batch, length,
      width]; None encodes them in the step.
  """

  images: Pictures
  tokens: Int[Array, "..."]
  features: Float[Array, "..."] | None = None


@flax.struct.dataclass
class ImageToTextBatch:
  """Examples of the text loss.

  Attributes:
    images: see `Pictures`; None for text alone, seen beside the null image.
    tokens: the clean text, padded, [batch, length]; padding is a target like
      any token.
    loss_mask: True where a token may be masked; question tokens are False.
    has_image: False where there is only text, [batch]; None if all have one.
  """

  images: Pictures | None
  tokens: Int[Array, "..."]
  loss_mask: Bool[Array, "..."]
  has_image: Bool[Array, "..."] | None = None


@flax.struct.dataclass
class DualBatch:
  """One training step's global batch; a stream that is off is None."""

  text_to_image: TextToImageBatch | None
  image_to_text: ImageToTextBatch | None
