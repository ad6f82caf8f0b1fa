"""A square of pixels of one picture: resized, cropped, perhaps mirrored."""

import dataclasses

import numpy as np
from PIL import Image

from ddit_jax.data.examples import BadRecord
from ddit_jax.data.image_headers import MAX_PIXELS
from ddit_jax.data.transforms.decode import decode

CROPS = ("centre", "random")
JPEG_DECODINGS = ("exact", "draft")

_BICUBIC = Image.Resampling.BICUBIC


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageTransform:
  """Encoded bytes to uint8 pixels [size, size, 3].

  The short side is resized to `size` (Pillow's antialiased bicubic), the long
  side to `size * long // short` as torchvision's `Resize` does; then a square
  is cut out.

  Attributes:
    size: pixels of the square's side.
    crop: "centre", or "random" (drawn anew at each visit).
    flip_probability: of mirroring, where the text allows it. Mirroring also
      mirrors writing: leave it 0 for pictures of text.
    jpeg_decoding: "exact", or "draft": JPEGs are decoded at a half, quarter
      or eighth where that is still enough; faster, other pixels.
    max_pixels: of the decoded and of the resized picture.
  """

  size: int
  crop: str = "centre"
  flip_probability: float = 0.0
  jpeg_decoding: str = "exact"
  max_pixels: int = MAX_PIXELS

  def __post_init__(self):
    _check_choice("crop", self.crop, CROPS)
    _check_choice("jpeg_decoding", self.jpeg_decoding, JPEG_DECODINGS)
    if self.size < 1:
      raise ValueError(f"the image size must be positive, got {self.size}")
    if not 0 <= self.flip_probability <= 1:
      raise ValueError(
        f"flip_probability must lie in [0, 1], got {self.flip_probability}"
      )
    if not self.size**2 <= self.max_pixels <= MAX_PIXELS:
      raise ValueError(
        f"max_pixels must lie in {self.size**2} to {MAX_PIXELS} (Pillow's "
        f"limit against decompression bombs), got {self.max_pixels}"
      )

  def __call__(
    self,
    data: bytes,
    rng: np.random.Generator,
    *,
    record_id: str,
    may_flip: bool,
  ) -> np.ndarray:
    """uint8 [size, size, 3] of one visit; always draws three times from `rng`.

    Raises:
      BadRecord: the bytes are no whole image of an allowed size.
    """
    picture = decode(
      data,
      record_id,
      max_pixels=self.max_pixels,
      draft_side=self.size if self.jpeg_decoding == "draft" else None,
    )
    width, height = resized_size(picture.size, self.size)
    if width * height > self.max_pixels:
      raise BadRecord(
        "image_too_large",
        f"{picture.width} x {picture.height} becomes {width} x {height} "
        f"pixels, at most {self.max_pixels} are allowed",
        record_id,
      )
    left, top = width - self.size, height - self.size
    drawn = int(rng.integers(left + 1)), int(rng.integers(top + 1))
    corner = drawn if self.crop == "random" else (left // 2, top // 2)
    square = resized_square(picture, self.size, corner)
    if rng.random() < self.flip_probability and may_flip:
      square = square.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(square)


def resized_size(size: tuple[int, int], short_side: int) -> tuple[int, int]:
  """(width, height) after the short side became `short_side`."""
  shortest = min(size)
  width, height = (short_side * side // shortest for side in size)
  return width, height


def resized_square(
  picture: Image.Image, size: int, corner: tuple[int, int]
) -> Image.Image:
  """The square at `corner` = (left, top) of the resized picture.

  Resizing only what is kept, by Pillow's `box`, would be faster and give other
  pixels: where Pillow resizes along which axis first depends on the sizes.
  """
  resized = picture.resize(resized_size(picture.size, size), _BICUBIC)
  if resized.size == (size, size):
    return resized
  left, top = corner
  return resized.crop((left, top, left + size, top + size))


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
  if value not in choices:
    raise ValueError(f"{name} must be one of {choices}, got {value!r}")
