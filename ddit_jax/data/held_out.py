"""Records of a source that are kept out of training, for validation."""

import dataclasses
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from ddit_jax.data.example import Source


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeldOut:
  """How many records of each source are held out.

  Attributes:
    held_out_share: fraction of each source's records, at most
      `validation_size` of them, that training never reads: validation does. 0
      trains on all records and validates on some of them, as do sources in
      which the fraction is less than one record.
    validation_size: examples for each task's validation loss.
  """

  held_out_share: float = 0.05
  validation_size: int = 256

  def __post_init__(self):
    if not 0 <= self.held_out_share < 1:
      raise ValueError(
        f"held_out_share must be in [0, 1), got {self.held_out_share}"
      )
    if self.validation_size < 1:
      raise ValueError(
        f"validation_size must be positive, got {self.validation_size}"
      )

  def indices(self, source: Source, num_rows: int) -> np.ndarray:
    """The numbers of the rows held out, ascending; the same at every start.

    Where a source names its records' images, all questions about an image are
    held out together, and sources of the same images hold out the same ones as
    far as their sizes allow. Otherwise the rows are evenly spaced.

    Args:
      source: the examples, for the names of their images.
      num_rows: its records, or the rows that were packed from them.
    """
    count = min(int(num_rows * self.held_out_share), self.validation_size)
    image_of = getattr(source, "image_of", None)
    if image_of is None or not count:
      return np.arange(count) * num_rows // max(count, 1)
    hashes = np.array(
      [zlib.crc32((image_of(i) or f"{i}").encode()) for i in range(num_rows)]
    )
    images, sizes = np.unique(hashes, return_counts=True)
    images, sizes = images[sizes <= count], sizes[sizes <= count]
    chosen = images[np.cumsum(sizes) <= count]
    return np.flatnonzero(np.isin(hashes, chosen))


class Part:
  """Some records of a source, or some of its packed rows, in their order.

  Attributes:
    name: of the source.
    removed: of the source.
  """

  name: str
  removed: Mapping[str, int]

  def __init__(self, rows: Any, listed: np.ndarray, *, has_listed: bool):
    """Args:
    rows: the source, or packed rows.
    listed: ascending numbers of some rows.
    has_listed: True for these, False for all others.
    """
    self.name, self.removed = rows.name, rows.removed
    self._rows, self._listed, self._has_listed = rows, listed, has_listed
    # How many other rows come before each.
    self._num_before = listed - np.arange(len(listed))

  def __len__(self) -> int:
    if self._has_listed:
      return len(self._listed)
    return len(self._rows) - len(self._listed)

  def __getitem__(self, index: int) -> Any:
    """One record; raises what the source raises."""
    if self._has_listed:
      return self._rows[int(self._listed[index])]
    skipped = np.searchsorted(self._num_before, index, side="right")
    return self._rows[int(index + skipped)]
