"""A source's examples as training records, read by any thread in any order."""

import zlib
from typing import Protocol, runtime_checkable

import numpy as np

from ddit_jax.data.bad_records import ReadLog, TooManyBadRecords
from ddit_jax.data.example import BadRecord, Example, Source
from ddit_jax.data.transforms import TrainingRecord

Record = dict[str, np.ndarray]

NUM_REPLACEMENTS = 8

# Far from the bad record, as damage comes in runs. Two primes: one of them
# leads to other records whatever the number of records is.
_STRIDES = (7919, 7907)


@runtime_checkable
class Transform(Protocol):
  """One example to one record; see `transforms.training_records`."""

  record_bytes: int

  def __call__(
    self, example: Example, rng: np.random.Generator
  ) -> TrainingRecord:
    """Raises BadRecord."""


class ReadExamples:
  """Records of one source, with random access.

  A record is a function of (seed, source's name, visit, index) alone: its
  draws do not depend on threads, processes or restarts. A bad record is
  replaced by another, always the same, and counted.

  Attributes:
    name: of the source.
    record_bytes: size of one record in memory.
  """

  def __init__(
    self, source: Source, transform: Transform, *, seed: int, log: ReadLog
  ):
    """Args:
    source: examples.
    transform: makes records of them.
    seed: of the draws, 0 or more.
    log: counts what was read.
    """
    if not len(source):
      raise ValueError(
        f"the source {source.name!r} has no records (its filters left out "
        f"{dict(source.removed)}): mend its path or filters"
      )
    self.name = source.name
    self.record_bytes = transform.record_bytes
    self._source = source
    self._transform = transform
    self._log = log
    self._seed = seed, zlib.crc32(source.name.encode())

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, visit: int) -> Record:
    """The record of one visit, in the source's own order, epoch by epoch."""
    return self.read(visit % len(self), visit)

  def record_id(self, index: int) -> str:
    """What the source calls the record at `index`."""
    try:
      return self._source[index].record_id
    except BadRecord as error:
      return error.record_id

  def read(self, index: int, visit: int) -> Record:
    """The record at `index`, as the source's visit number `visit` sees it.

    Args:
      index: 0 to len(self) - 1.
      visit: how many records of this source came before, over all epochs.

    Raises:
      TooManyBadRecords: it and its replacements are bad, or too many are.
    """
    count = len(self)
    stride = _STRIDES[0] if count % _STRIDES[0] else _STRIDES[1]
    for attempt in range(1 + NUM_REPLACEMENTS):
      try:
        example = self._source[(index + attempt * stride) % count]
        record = self._transform(example, self._generator(visit))
      except BadRecord as error:
        self._log.add_bad(self.name, error)
        last = error
      else:
        self._log.add_good(self.name, record.num_truncated)
        return record.arrays
    raise TooManyBadRecords(
      f"record {index} of {self.name!r} and {NUM_REPLACEMENTS} replacements "
      f"could not be read, the last for {last.reason} ({last}): mend the source"
    ) from last

  def _generator(self, visit: int) -> np.random.Generator:
    return np.random.default_rng((*self._seed, visit))
