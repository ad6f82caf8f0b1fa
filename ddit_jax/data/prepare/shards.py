"""A folder of ArrayRecord shards: its manifest and its records.

The manifest, dataset.json, is written last: a folder without it is not
finished. It lists every shard with its size and hash, but neither times
nor paths: equal data sets have equal files.
"""

import bisect
import dataclasses
import hashlib
import itertools
import math
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordWriter

from ddit_jax.data.example import BadRecord
from ddit_jax.errors import InputError, preparing
from ddit_jax.files import replace_file
from ddit_jax.json_files import read_json_object, sealed, unsealed

DATASET_NAME = "dataset.json"
SHARD_SUFFIX = ".array_record"

_MAX_JSON_BYTES = 2**28
_DIGEST_BYTES = 16
_NAMED_SHARDS = 3
_SAMPLED_RECORDS = 32
# A part interrupted by a kill is written again.
_BYTES_PER_PART, _RECORDS_PER_PART = 2**31, 8192
# What dataset.json says of all shards together.
_FACTS = ("removed", "bad_records", "counts", "source", "options")


class FolderFormat(NamedTuple):
  """The format of a folder's records.

  Attributes:
    name: for dataset.json.
    version: of the records' bytes.
    command: that writes such a folder.
  """

  name: str
  version: int
  command: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shard:
  """One finished file.

  Attributes:
    name: file name, without folder.
    num_records: records in it.
    num_bytes: its size.
    blake2b: hash of its bytes, 32 hex digits.
  """

  name: str
  num_records: int
  num_bytes: int
  blake2b: str

  def __post_init__(self):
    is_plain = self.name == os.path.basename(self.name)
    if not is_plain or not self.name.endswith(SHARD_SUFFIX):
      raise ValueError(f"{self.name!r} is not the name of a shard")
    _require_counts([self.num_records, self.num_bytes])
    if not isinstance(self.blake2b, str):
      raise ValueError(f"{self.name} has no hash")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
  """The contents of dataset.json.

  Attributes:
    shards: kind by kind, each in the order of its records.
    removed: filter's name to the number of records that filters skipped.
    bad_records: reason to the number of records that could not be used.
    counts: other counts of the writer.
    source: {"name", "fingerprint", "num_records"} of what was read.
    options: with the source they determined the bytes.
  """

  shards: tuple[Shard, ...]
  removed: Mapping[str, int]
  bad_records: Mapping[str, int]
  counts: Mapping[str, int]
  source: Mapping[str, Any]
  options: Mapping[str, Any]

  def __post_init__(self):
    for name in ("removed", "bad_records", "counts", "source", "options"):
      if not isinstance(getattr(self, name), Mapping):
        raise ValueError(f"{name} is not a mapping")
    for counts in (self.removed, self.bad_records, self.counts):
      _require_counts(counts.values())
    names = [shard.name for shard in self.shards]
    if len(set(names)) != len(names):
      raise ValueError("a shard is listed twice")

  @property
  def num_records(self) -> int:
    """Records in all shards."""
    return sum(shard.num_records for shard in self.shards)

  @property
  def num_bytes(self) -> int:
    """Size of all shards."""
    return sum(shard.num_bytes for shard in self.shards)

  def of_kind(self, kind: str) -> tuple[Shard, ...]:
    """The shards of a kind, e.g. "latents"."""
    return tuple(s for s in self.shards if s.name.startswith(f"{kind}-"))


def shards_fingerprint(shards: Iterable[Shard]) -> str:
  """Hex digest of the shards' contents; moving the folder keeps it."""
  digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
  for shard in shards:
    digest.update(f"{shard.num_records} {shard.blake2b}\n".encode())
  return digest.hexdigest()


def write_dataset(
  folder: pathlib.Path, fmt: FolderFormat, manifest: Manifest
) -> None:
  """Writes dataset.json in one rename."""
  body = {
    "format": fmt.name,
    "format_version": fmt.version,
    "fingerprint": shards_fingerprint(manifest.shards),
    "num_records": manifest.num_records,
    "num_bytes": manifest.num_bytes,
  } | dataclasses.asdict(manifest)
  replace_file(folder / DATASET_NAME, sealed(body, indent=1))


def read_dataset(folder: str | os.PathLike, fmt: FolderFormat) -> Manifest:
  """The contents of dataset.json; the shards are not checked.

  Raises:
    InputError: no such file, another format, or damaged contents.
  """
  path = pathlib.Path(folder) / DATASET_NAME
  if not path.is_file():
    raise InputError(
      f"{folder} has no {DATASET_NAME}: it is not a folder that "
      f"{fmt.command} finished; run {fmt.command} again to finish it"
    )
  with preparing():
    body = read_json_object(path, max_bytes=_MAX_JSON_BYTES)
  found = body.get("format"), body.get("format_version")
  if found != (fmt.name, fmt.version):
    raise InputError(
      f"{path} is {found[0]!r} version {found[1]!r}, this program reads "
      f"{fmt.name!r} version {fmt.version}: run {fmt.command} again"
    )
  try:
    manifest = Manifest(
      shards=tuple(Shard(**shard) for shard in body["shards"]),
      **{key: body[key] for key in _FACTS},
    )
  except (KeyError, TypeError, ValueError) as error:
    raise InputError(
      f"{path} is damaged ({type(error).__name__}: {error}): run "
      f"{fmt.command} again"
    ) from error
  if body.get("fingerprint") != shards_fingerprint(manifest.shards):
    raise InputError(f"{path} was changed: run {fmt.command} again")
  try:
    unsealed(body, path)
  except ValueError as error:
    raise InputError(f"{error}: run {fmt.command} again") from error
  return manifest


def shard_names(folder: pathlib.Path) -> list[str]:
  """Names of the shards in a folder; hidden files are none."""
  names = [path.name for path in folder.glob(f"*{SHARD_SUFFIX}")]
  return [name for name in names if not name.startswith(".")]


def check_shards(
  folder: str | os.PathLike,
  shards: Iterable[Shard],
  *,
  found: Iterable[str] | None = None,
) -> None:
  """Compares a folder's files with the shards it should have.

  Args:
    folder: of the shards.
    shards: from dataset.json.
    found: names of the files to be read; None takes all shards there.

  Raises:
    InputError: a shard is missing, has another size, or is not listed.
  """
  folder = pathlib.Path(folder)
  if found is None:
    found = shard_names(folder)
  sizes = {shard.name: shard.num_bytes for shard in shards}
  found = set(found)
  problems = [f"{name} is missing" for name in sorted(set(sizes) - found)]
  problems += [f"{name} is not listed" for name in sorted(found - set(sizes))]
  for name in sorted(found & set(sizes)):
    size = (folder / name).stat().st_size
    if size != sizes[name]:
      problems.append(f"{name} has {size} bytes instead of {sizes[name]}")
  if problems:
    more = len(problems) - _NAMED_SHARDS
    named = ", ".join(problems[:_NAMED_SHARDS])
    raise InputError(
      f"{folder} does not match its {DATASET_NAME}: {named}"
      f"{f' and {more} more' if more > 0 else ''}: copy it again or prepare it "
      "again"
    )


def plan_differences(
  found: Mapping[str, Any], wanted: Mapping[str, Any]
) -> list[str]:
  """ "image_size 256 instead of 512" for each key; nested keys are dotted."""
  found, wanted = _flat(found), _flat(wanted)
  return [
    f"{key} {found.get(key)!r} instead of {wanted.get(key)!r}"
    for key in sorted({*found, *wanted})
    if found.get(key) != wanted.get(key)
  ]


def _flat(body: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  flat = {}
  for key, value in body.items():
    is_nested = isinstance(value, Mapping)
    flat |= (
      _flat(value, f"{prefix}{key}.") if is_nested else {prefix + key: value}
    )
  return flat


def _require_counts(values: Iterable[Any]) -> None:
  for value in values:
    if type(value) is not int or value < 0:
      raise ValueError(f"{value!r} is not a count")


class ShardReader:
  """The records of some shards, one after the other, for any thread."""

  def __init__(self, shards: Sequence[tuple[pathlib.Path, Shard]]):
    """(folder, shard) in the order of their records; opens no file yet."""
    self.shards = [shard for _, shard in shards]
    counts = [shard.num_records for shard in self.shards]
    self._ends = [0, *itertools.accumulate(counts)]
    # With a range after the path, files need not be opened to count records.
    paths = [f"{folder / s.name}[0:{s.num_records}]" for folder, s in shards]
    self._records = ArrayRecordDataSource(paths) if paths else None

  def __len__(self) -> int:
    return self._ends[-1]

  def place(self, index: int) -> tuple[int, int]:
    """(shard, record in it) of a record."""
    shard = bisect.bisect_right(self._ends, index) - 1
    return shard, index - self._ends[shard]

  def start(self, shard: int) -> int:
    """Index of a shard's first record."""
    return self._ends[shard]

  def read(self, index: int, record_id: str) -> bytes:
    """One record's bytes.

    Raises:
      BadRecord: corrupt_shard, the chunk's hash is wrong.
    """
    try:
      return self._records[index]
    # The reader checks a hash of every chunk and raises only this exception.
    except RuntimeError as error:
      detail = " ".join(str(error).split())
      raise BadRecord("corrupt_shard", detail, record_id) from error


# One record a chunk is what random access needs; images do not compress.
_OPTIONS = "group_size:1,uncompressed"
# ArrayRecord's headers and padding, measured with 0 to 100,000 records of 1
# byte to 1 MB: never more than these together.
_BYTES_PER_SHARD, BYTES_PER_RECORD, _BLOCK_FACTOR = 131_072, 64, 1.001


def num_parts_for(num_records: int, bytes_per_record: float) -> int:
  """The default number of parts of a source."""
  by_size = math.ceil(num_records * bytes_per_record / _BYTES_PER_PART)
  return max(1, by_size, math.ceil(num_records / _RECORDS_PER_PART))


def sampled_mean(num_records: int, measure: Callable[[int], float]) -> float:
  """Mean of a measure over a few indices spread over the source."""
  step = max(1, num_records // _SAMPLED_RECORDS)
  values = [measure(index) for index in range(0, num_records, step)]
  return sum(values) / len(values)


def shards_bytes(
  num_records: int, *, num_shards: int, bytes_per_record: float
) -> int:
  """Estimated size of some shards, slightly too large."""
  payload = num_records * (bytes_per_record + BYTES_PER_RECORD)
  return int(_BLOCK_FACTOR * payload) + _BYTES_PER_SHARD * num_shards


class ShardFile:
  """ArrayRecord's writer, with disk errors as InputError.

  Attributes:
    num_records: written so far.
  """

  def __init__(self, path: pathlib.Path):
    self._path, self.num_records = path, 0
    self._writer = ArrayRecordWriter(str(path), _OPTIONS)

  def __enter__(self) -> "ShardFile":
    return self

  def __exit__(self, kind: Any, *_: Any) -> None:
    try:
      self._writer.close()
    except RuntimeError as error:
      # An error inside the block is more informative than one of closing.
      if kind is None:
        raise self._failed(error) from error

  def write(self, record: bytes) -> None:
    """Appends a record.

    Raises:
      InputError: it cannot be written.
    """
    try:
      self._writer.write(record)
    except RuntimeError as error:
      raise self._failed(error) from error
    self.num_records += 1

  def _failed(self, error: RuntimeError) -> InputError:
    cause = " ".join(str(error).split())
    return InputError(
      f"{self._path} cannot be written ({cause}): make room and run again; "
      "finished shards are kept"
    )
