"""The file of a tar index: records, a JSON footer, and a tail.

The records are an array of `tar_samples.RECORD`, 32 bytes a sample, in the
order of the shards. The footer names the shards and what was left out; the
tail says how long the footer is. Records come first so that they can be
appended while shards are still being read, and are memory-mapped, so that
opening reads none of them.
"""

import dataclasses
import json
import pathlib
import stat
from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np

from ddit_jax.data.sources.tar_samples import RECORD, SampleRules

VERSION = 1

_MAGIC = b"ddit tar index\0\1"
_LENGTH_BYTES = 8
_TAIL_BYTES = _LENGTH_BYTES + len(_MAGIC)
_MAX_FOOTER_BYTES = 2**30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shard:
  """One tar file when it was indexed.

  Attributes:
    name: path below the folder that all shards share.
    num_bytes: its size.
    mtime_ns: when it was last changed.
  """

  name: str
  num_bytes: int
  mtime_ns: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class IndexReport:
  """What building an index saw.

  Attributes:
    removed: reason to the number of samples left out.
    named: reason to the first few names left out for it.
    damaged: shard that breaks off to what is wrong with it.
    num_other: members that belong to no sample, for want of an extension.
    seconds: that building took.
  """

  removed: dict[str, int]
  named: dict[str, list[str]]
  damaged: dict[str, str]
  num_other: int
  seconds: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class TarIndex:
  """An open index.

  Attributes:
    records: RECORD [samples], memory-mapped.
    ends: int64 [shards], number of samples up to and with each shard.
    report: what building it saw.
  """

  records: np.ndarray
  ends: np.ndarray
  report: IndexReport


@dataclasses.dataclass(frozen=True, kw_only=True)
class Footer:
  """What the records of a file are.

  Attributes:
    rules: that samples were chosen by, as JSON gives them back.
    shards: in order.
    counts: number of samples in each.
    report: what building the index saw.
  """

  rules: dict[str, Any]
  shards: Sequence[Shard]
  counts: Sequence[int]
  report: IndexReport


def plain_rules(rules: SampleRules) -> dict[str, Any]:
  """Rules as JSON gives them back."""
  return json.loads(json.dumps(dataclasses.asdict(rules)))


def write_footer(file: BinaryIO, footer: Footer) -> None:
  """Ends a file that has all its records."""
  body = dataclasses.asdict(footer) | {"version": VERSION}
  data = json.dumps(body).encode()
  file.write(data)
  file.write(len(data).to_bytes(_LENGTH_BYTES, "little"))
  file.write(_MAGIC)


def read_index(
  path: pathlib.Path, shards: Sequence[Shard], rules: SampleRules
) -> TarIndex:
  """An index that fits the shards as they are now.

  Raises:
    ValueError: it is of other shards or rules, or damaged.
  """
  num_records, footer = _read_footer(path)
  if footer.rules != plain_rules(rules) or len(footer.shards) != len(shards):
    raise ValueError("it was built for other shards or filters")
  changed = [
    now.name
    for now, then in zip(shards, footer.shards, strict=True)
    if now != then
  ]
  if changed:
    raise ValueError(
      f"{len(changed)} of {len(shards)} shards have changed since, first "
      f"{changed[0]}"
    )
  counts = np.asarray(footer.counts)
  is_sound = counts.shape == (len(shards),) and counts.dtype == np.int64
  if not is_sound or counts.min() < 0 or counts.sum() != num_records:
    raise ValueError("its footer is damaged: counts do not add up")
  records = np.memmap(path, RECORD, mode="r", shape=(num_records,))
  return TarIndex(
    # A plain array over the same pages: rows of a memmap are slow to take.
    records=np.asarray(records),
    ends=np.cumsum(counts),
    report=footer.report,
  )


def _read_footer(path: pathlib.Path) -> tuple[int, Footer]:
  """(number of records before it, footer)."""
  status = path.stat()
  # Opening a pipe would wait for its writer.
  if not stat.S_ISREG(status.st_mode):
    raise ValueError("it is no regular file")
  size = status.st_size
  with open(path, "rb") as file:
    file.seek(max(0, size - _TAIL_BYTES))
    tail = file.read()
    length = int.from_bytes(tail[:_LENGTH_BYTES], "little")
    start = size - _TAIL_BYTES - length
    if tail[_LENGTH_BYTES:] != _MAGIC or start < 0:
      raise ValueError("it is no index of this version, or cut off")
    if length > _MAX_FOOTER_BYTES or start % RECORD.itemsize:
      raise ValueError("its footer is damaged")
    file.seek(start)
    data = file.read(length)
  try:
    body = json.loads(data)
    if body.pop("version") != VERSION:
      raise ValueError("another version")
    body["shards"] = [Shard(**shard) for shard in body["shards"]]
    body["report"] = IndexReport(**body["report"])
    return start // RECORD.itemsize, Footer(**body)
  except (AttributeError, KeyError, TypeError, RecursionError) as error:
    raise ValueError(f"its footer is damaged: {error}") from error
