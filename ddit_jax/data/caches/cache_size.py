"""How large a cache becomes, before it is written."""

import dataclasses
import json
import math
import pathlib
import shutil

from ddit_jax.data.caches.array_layout import ArrayLayout
from ddit_jax.data.examples import BadRecord, Source
from ddit_jax.data.shard_writer import shards_bytes
from ddit_jax.data.unfinished_folder import PrepareError

_SAMPLED_RECORDS = 32
# A part that a kill interrupts is written again.
_BYTES_PER_PART = 2**31
_RECORDS_PER_PART = 8192


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordSize:
  """Of one record, from a few that are spread over the source.

  Attributes:
    latents: bytes of its moments.
    texts: bytes of its texts, about.
    num_features: texts with features, about; 0 without features.
    feature: bytes of one text's features.
  """

  latents: int
  texts: float
  num_features: float
  feature: int

  @property
  def num_bytes(self) -> float:
    """All of it, about."""
    return self.latents + self.texts + self.num_features * self.feature

  def num_parts(self, num_records: int) -> int:
    """How many parts a cache is best cut into."""
    by_size = math.ceil(num_records * self.num_bytes / _BYTES_PER_PART)
    return max(by_size, math.ceil(num_records / _RECORDS_PER_PART))

  def total(self, num_records: int, num_parts: int) -> int:
    """Bytes of some parts that hold this many records."""
    rows = 1 + self.num_features
    num_shards = num_parts * (2 if self.num_features else 1)
    return shards_bytes(
      math.ceil(num_records * rows),
      num_shards=num_shards,
      bytes_per_record=self.num_bytes / rows,
    )

  def __str__(self) -> str:
    text = f"{self.latents:,} bytes of latents"
    if self.num_features:
      text += (
        f" and about {self.num_features * self.feature:,.0f} of features "
        f"({self.num_features:.3g} texts of {self.feature:,})"
      )
    return text


def record_size(
  source: Source, moments: ArrayLayout, feature: ArrayLayout | None
) -> RecordSize:
  """Reads some records, undecoded; bad ones count as empty."""
  step = max(1, len(source) // _SAMPLED_RECORDS)
  num_read = num_bytes = num_texts = 0
  for index in range(0, len(source), step):
    num_read += 1
    try:
      example = source[index]
    except BadRecord:
      continue
    texts = [*example.texts, *example.rewritten]
    num_bytes += len(json.dumps([example.prompt, example.record_id, texts]))
    num_texts += len(texts)
  return RecordSize(
    latents=moments.num_bytes,
    texts=num_bytes / num_read,
    num_features=num_texts / num_read if feature else 0.0,
    feature=feature.num_bytes if feature else 0,
  )


def require_room(folder: pathlib.Path, needed: int) -> str:
  """ "52 GB to write, 800 GB are free in FOLDER".

  Raises:
    PrepareError: less is free than needed.
  """
  there = next(p for p in (folder, *folder.absolute().parents) if p.exists())
  free = shutil.disk_usage(there).free
  facts = f"{needed / 1e9:.3g} GB to write, {free / 1e9:.3g} GB are free"
  if needed > free:
    raise PrepareError(
      f"{folder}: {facts}: free some space, choose another disk, a smaller "
      "image_size or text_length, or --cache=latents without T5's features"
    )
  return f"{facts} in {folder}"
