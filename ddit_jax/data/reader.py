"""A source's examples as training records, read in any order."""

import dataclasses
import zlib
from typing import Protocol, runtime_checkable

import numpy as np

from ddit_jax.data.bad_records import TooManyBadRecords
from ddit_jax.data.example import BadRecord, Example, Source, TrainingRecord

_NUM_REPLACEMENTS = 8

# Far from the bad record, because damage comes in runs. Two primes: at least
# one of them leads to other records for any number of records.
_STRIDES = (7919, 7907)


@runtime_checkable
class Transform(Protocol):
  """One example to one record; see `ddit_jax.data.transforms`.

  Attributes:
    record_bytes: size of one record in memory.
  """

  record_bytes: int

  def __call__(
    self, example: Example, rng: np.random.Generator
  ) -> TrainingRecord:
    """Raises BadRecord."""


class RecordReader:
  """Records of one source, with random access.

  A record is a function of (seed, source's name, visit, index) alone: its
  random draws do not depend on threads, processes or restarts. A bad record is
  always replaced by the same other record.

  Attributes:
    name: of the source.
    record_bytes: size of one record in memory.
  """

  def __init__(self, source: Source, transform: Transform, *, seed: int):
    """Args:
    source: examples.
    transform: converts examples to records.
    seed: of the random draws, 0 or more.

    Raises:
      ValueError: the source is empty.
    """
    if not len(source):
      raise ValueError(
        f"the source {source.name!r} has no records (its filters removed "
        f"{dict(source.removed)}): correct its path or filters"
      )
    self.name = source.name
    self.record_bytes = transform.record_bytes
    self._source = source
    self._transform = transform
    self._seed = seed, zlib.crc32(source.name.encode())

  def __len__(self) -> int:
    return len(self._source)

  def record_id(self, index: int) -> str:
    """The source's id of the record at `index`."""
    try:
      return self._source[index].record_id
    except BadRecord as error:
      return error.record_id

  def read(self, visit: int, index: int) -> TrainingRecord:
    """The record at `index`, with the bad ones it replaces.

    Args:
      visit: how many records of this source came before, over all epochs.
      index: 0 to len(self) - 1.

    Raises:
      TooManyBadRecords: it and its replacements are bad.
    """
    count, index = len(self), int(index)
    stride = _STRIDES[0] if count % _STRIDES[0] else _STRIDES[1]
    bad: list[BadRecord] = []
    for attempt in range(1 + _NUM_REPLACEMENTS):
      rng = np.random.default_rng((*self._seed, visit))
      try:
        example = self._source[(index + attempt * stride) % count]
        record = self._transform(example, rng)
      except BadRecord as error:
        # A copy, because the traceback would keep the image alive.
        bad.append(BadRecord(error.reason, error.detail, error.record_id))
      else:
        return dataclasses.replace(record, source=self.name, bad=tuple(bad))
    failure = TooManyBadRecords(
      f"record {index} of {self.name!r} and {_NUM_REPLACEMENTS} replacements "
      f"could not be read, the last for {bad[-1].reason} ({bad[-1]}): correct "
      "the source"
    )
    failure.source, failure.bad = self.name, tuple(bad)
    raise failure
