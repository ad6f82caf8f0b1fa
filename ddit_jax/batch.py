"""The batch of one training step: the contract between data and training."""

import flax.struct
from jaxtyping import Array, Bool, Float, Int, UInt8

# Pixels in 0..255; or, from a cache, the moments of their posterior: mean and
# log variance along the channels, before `AutoencoderConfig.to_network`.
Images = (
  UInt8[Array, "batch height width 3"]
  | Float[Array, "batch rows columns moments"]
)


@flax.struct.dataclass
class TextToImageBatch:
  """Examples of the image loss.

  Attributes:
    images: see `Images`.
    tokens: clean captions, padded.
    features: the text encoder's features of `tokens`, from a cache; None
      encodes the tokens in the step.
    rejected: of preference pairs, the images that `images` were preferred to.
  """

  images: Images
  tokens: Int[Array, "batch length"]
  features: Float[Array, "batch length context_dim"] | None = None
  rejected: Images | None = None


@flax.struct.dataclass
class ImageToTextBatch:
  """Examples of the text loss.

  Attributes:
    images: see `Images`; None for text only, which sees the null image.
    tokens: clean text, padded; padding is a target like any token.
    loss_mask: True where a token may be masked; False for question tokens.
    has_image: False where there is only text; None if all have an image.
    rejected: of preference pairs, the texts that `tokens` were preferred to.
    rejected_loss_mask: the `loss_mask` of `rejected`.
  """

  images: Images | None
  tokens: Int[Array, "batch length"]
  loss_mask: Bool[Array, "batch length"]
  has_image: Bool[Array, " batch"] | None = None
  rejected: Int[Array, "batch length"] | None = None
  rejected_loss_mask: Bool[Array, "batch length"] | None = None


@flax.struct.dataclass
class DualBatch:
  """The global batch of both tasks; a task that is off is None."""

  text_to_image: TextToImageBatch | None
  image_to_text: ImageToTextBatch | None
