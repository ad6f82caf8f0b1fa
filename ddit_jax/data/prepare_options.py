"""What preparing does to every example on its way into a shard."""

import dataclasses
import math
from typing import Any

from ddit_jax.data import record_format
from ddit_jax.data.examples import BadRecord, Example
from ddit_jax.data.filters import Filters
from ddit_jax.data.image_headers import HeaderError, image_size_of_bytes
from ddit_jax.data.transforms.reencode import reencoded

_RECORDS_PER_SHARD = 8192


@dataclasses.dataclass(frozen=True, kw_only=True)
class PrepareOptions:
  """All that decides which bytes are written.

  Attributes:
    num_shards: files; None chooses one for every 8192 records.
    short_side: larger images are shrunk to it, in pixels; None keeps the
      image files as they are, undecoded.
    jpeg_quality: of shrunk images, 1..100.
    max_ratio: images whose sides have a larger ratio are left out; infinity
      keeps all.
    min_short_side: smaller images are left out, in pixels; 0 keeps all.
  """

  num_shards: int | None = None
  short_side: int | None = None
  jpeg_quality: int = 95
  max_ratio: float = math.inf
  min_short_side: int = 0

  def __post_init__(self):
    if self.num_shards is not None and not 1 <= self.num_shards <= 99_999:
      raise ValueError(f"shards must lie in 1..99999, got {self.num_shards}")
    if self.short_side is not None and self.short_side < 1:
      raise ValueError(f"short_side must be positive, got {self.short_side}")
    if not 1 <= self.jpeg_quality <= 100:
      raise ValueError(
        f"jpeg_quality must lie in 1..100, got {self.jpeg_quality}"
      )
    self.filters()

  def filters(self) -> Filters:
    """The filters of images.

    Raises:
      ValueError: a value out of range.
    """
    return Filters(
      max_ratio=self.max_ratio,
      min_short_side=self.min_short_side,
      drop_empty_captions=False,
    )

  def shards_for(self, num_records: int) -> int:
    """How many files that many records go into."""
    if self.num_shards is not None:
      return self.num_shards
    return max(1, math.ceil(num_records / _RECORDS_PER_SHARD))

  def as_json(self, num_records: int) -> dict[str, Any]:
    """What dataset.json keeps; equal for options that write equal bytes."""
    return {
      "num_shards": self.shards_for(num_records),
      "short_side": self.short_side,
      "jpeg_quality": self.jpeg_quality if self.short_side else None,
      "max_ratio": self.max_ratio if math.isfinite(self.max_ratio) else None,
      "min_short_side": self.min_short_side,
    }

  def refused(self, example: Example) -> str | None:
    """Name of the filter that leaves an example out, or None.

    Raises:
      BadRecord: the size is asked for, and the image's header gives none.
    """
    filters = self.filters()
    if example.image is None or not filters.needs_size:
      return None
    try:
      size = image_size_of_bytes(example.image)
    except HeaderError as error:
      raise BadRecord(error.reason, str(error), example.record_id) from error
    return filters.refused_size(size)

  def record(self, example: Example) -> bytes:
    """The bytes to write.

    Raises:
      BadRecord: the image or a text cannot be used.
    """
    if self.short_side is not None and example.image is not None:
      image = reencoded(
        example.image,
        example.record_id,
        short_side=self.short_side,
        jpeg_quality=self.jpeg_quality,
      )
      example = dataclasses.replace(example, image=image)
    return record_format.encode(example)
