"""What one step's examples hold: the contract of data and training."""

import flax.struct
from jaxtyping import Array, Bool, Int, UInt8


@flax.struct.dataclass
class TextToImageBatch:
  """Examples of the image loss.

  Attributes:
    images: pixels 0..255, [batch, height, width, 3].
    tokens: the clean caption, padded, [batch, length].
  """

  images: UInt8[Array, "..."]
  tokens: Int[Array, "..."]


@flax.struct.dataclass
class ImageToTextBatch:
  """Examples of the text loss.

  Attributes:
    images: pixels 0..255, [batch, height, width, 3].
    tokens: the clean text, padded, [batch, length]; padding is a target like
      any token.
    is_target: True where a token may be masked; question tokens are False.
    has_image: False where there is only text, [batch]; None if all have one.
  """

  images: UInt8[Array, "..."]
  tokens: Int[Array, "..."]
  is_target: Bool[Array, "..."]
  has_image: Bool[Array, "..."] | None = None


@flax.struct.dataclass
class DualBatch:
  """One training step's global batch of both streams."""

  text_to_image: TextToImageBatch
  image_to_text: ImageToTextBatch
