"""Large images to small JPEG files, once, ahead of training."""

import io

from PIL import Image

from ddit_jax.data.transforms.decode import decode
from ddit_jax.data.transforms.images import resized_size


def reencoded(
  data: bytes, record_id: str, *, short_side: int, jpeg_quality: int
) -> bytes:
  """An image file whose short side is at most `short_side` pixels.

  A larger image is decoded, turned upright, resized (Pillow's antialiased
  bicubic) and written as a JPEG without chroma subsampling; its metadata goes.
  An image that is small enough keeps its bytes: nothing is enlarged, and no
  JPEG is compressed twice for nothing. Either way the whole image was decoded.

  Args:
    data: a JPEG, PNG or WebP file.
    record_id: named in errors.
    short_side: in pixels, at least 1.
    jpeg_quality: 1..100, as Pillow means it.

  Raises:
    BadRecord: not_an_image, truncated_image or image_too_large.
  """
  picture = decode(data, record_id)
  if min(picture.size) <= short_side:
    return data
  small = picture.resize(
    resized_size(picture.size, short_side), Image.Resampling.BICUBIC
  )
  file = io.BytesIO()
  # Half as many colour pixels would blur small writing and thin outlines.
  small.save(file, "JPEG", quality=jpeg_quality, subsampling="4:4:4")
  return file.getvalue()
