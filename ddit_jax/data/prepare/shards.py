"""dataset.json: what a folder of prepared ArrayRecord shards holds.

It is written last, so a folder without it is not finished. It names every
shard with its size and hash, and holds neither times nor paths: equal
datasets have equal files.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from array_record.python.array_record_module import ArrayRecordWriter

from ddit_jax.data import example
from ddit_jax.files import read_json_object, replace_file

FILE_NAME = "dataset.json"
SHARD_SUFFIX = ".array_record"
FORMAT = "ddit_jax examples in ArrayRecord"

_MAX_FILE_BYTES = 2**28
_DIGEST_BYTES = 16
_NAMED_SHARDS = 3


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
      raise ValueError(f"{self.name!r} is no name of a shard")
    _require_counts([self.num_records, self.num_bytes])
    if not isinstance(self.blake2b, str):
      raise ValueError(f"{self.name} has no hash")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreparedDataset:
  """The contents of dataset.json.

  Attributes:
    shards: in the order of their records.
    removed: filter's name to the number of records the source left out.
    bad_records: reason to the number of records that could not be used.
    source: {"name", "fingerprint", "num_records"} of what was prepared.
    options: what was done to the examples.
  """

  shards: tuple[Shard, ...]
  removed: Mapping[str, int]
  bad_records: Mapping[str, int]
  source: Mapping[str, Any]
  options: Mapping[str, Any]

  def __post_init__(self):
    for name in ("removed", "bad_records", "source", "options"):
      if not isinstance(getattr(self, name), Mapping):
        raise ValueError(f"{name} is no mapping")
    _require_counts([*self.removed.values(), *self.bad_records.values()])
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


def fingerprint(shards: Iterable[Shard]) -> str:
  """Hex digest of what shards hold, wherever they lie."""
  digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
  for shard in shards:
    digest.update(f"{shard.num_records} {shard.blake2b}\n".encode())
  return digest.hexdigest()


def file_hash(path: str | os.PathLike) -> str:
  """BLAKE2b of a file's bytes, 32 hex digits."""
  with open(path, "rb") as file:
    digest = hashlib.file_digest(
      file, lambda: hashlib.blake2b(digest_size=_DIGEST_BYTES)
    )
  return digest.hexdigest()


def write_dataset(folder: str | os.PathLike, dataset: PreparedDataset) -> None:
  """Writes dataset.json in one rename."""
  body = {
    "format": FORMAT,
    "format_version": example.VERSION,
    "fingerprint": fingerprint(dataset.shards),
    "num_records": dataset.num_records,
    "num_bytes": dataset.num_bytes,
  } | dataclasses.asdict(dataset)
  replace_file(
    pathlib.Path(folder) / FILE_NAME,
    (json.dumps(body, indent=1, sort_keys=True) + "\n").encode(),
  )


def read_dataset(folder: str | os.PathLike) -> PreparedDataset:
  """What dataset.json says; the shards are not looked at.

  Raises:
    ValueError: no such file, another format, or damaged contents.
  """
  path = pathlib.Path(folder) / FILE_NAME
  if not path.is_file():
    raise ValueError(
      f"{folder} has no {FILE_NAME}: it is not a folder that ddit prepare "
      "finished; run ddit prepare again to finish it"
    )
  body = read_json_object(path, max_bytes=_MAX_FILE_BYTES)
  version = body.get("format_version")
  if body.get("format") != FORMAT or version != example.VERSION:
    raise ValueError(
      f"{path} is {body.get('format')!r} version {version!r}, this program "
      f"reads {FORMAT!r} version {example.VERSION}: prepare it anew"
    )
  try:
    dataset = PreparedDataset(
      shards=tuple(Shard(**shard) for shard in body["shards"]),
      **{k: body[k] for k in ("removed", "bad_records", "source", "options")},
    )
  except (KeyError, TypeError, ValueError) as error:
    raise ValueError(
      f"{path} is damaged ({type(error).__name__}: {error}): prepare it anew"
    ) from error
  if body.get("fingerprint") != fingerprint(dataset.shards):
    raise ValueError(f"{path} was changed: prepare the dataset anew")
  return dataset


def check_shards(
  folder: str | os.PathLike, shards: Iterable[Shard], *, found: Iterable[str]
) -> None:
  """Compares a folder's files with the shards it should have.

  Args:
    folder: where the shards lie.
    shards: from dataset.json.
    found: names of the files that would be read.

  Raises:
    ValueError: a shard is missing, has another size, or is not listed.
  """
  sizes = {shard.name: shard.num_bytes for shard in shards}
  found = set(found)
  problems = [f"{name} is missing" for name in sorted(set(sizes) - found)]
  problems += [f"{name} is not listed" for name in sorted(found - set(sizes))]
  for name in sorted(found & set(sizes)):
    size = (pathlib.Path(folder) / name).stat().st_size
    if size != sizes[name]:
      problems.append(f"{name} has {size} bytes instead of {sizes[name]}")
  if problems:
    more = len(problems) - _NAMED_SHARDS
    named = ", ".join(problems[:_NAMED_SHARDS])
    raise ValueError(
      f"{folder} is not as its {FILE_NAME} says: {named}"
      f"{f' and {more} more' if more > 0 else ''}: copy it again or prepare it "
      "anew"
    )


def _require_counts(values: Iterable[Any]) -> None:
  for value in values:
    if type(value) is not int or value < 0:
      raise ValueError(f"{value!r} is no count")


IN_PROGRESS = "in_progress"


class PrepareError(ValueError):
  """Preparing cannot start or go on; one line with the way out."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinishedShard:
  """One shard and what became of its share of the source.

  Attributes:
    shard: as dataset.json will list it.
    removed: filter's name to the number of records it left out.
    bad_records: {"index", "record_id", "reason", "detail"} of every record
      that could not be used.
  """

  shard: Shard
  removed: Mapping[str, int]
  bad_records: tuple[Mapping[str, Any], ...]


class UnfinishedFolder:
  """Where shards are written, one by one, each at once or not at all."""

  def __init__(self, folder: pathlib.Path):
    """Touches nothing."""
    self.folder = folder
    self._progress = folder / IN_PROGRESS

  @contextlib.contextmanager
  def locked(self, plan: Mapping[str, Any]) -> Iterator[None]:
    """Makes the folder this process's own, for this plan.

    Args:
      plan: JSON-able; equal plans write equal bytes.

    Raises:
      PrepareError: another process writes here, the folder holds something
        else, or it was begun with another plan.
    """
    self._refuse_other_contents()
    self._progress.mkdir(parents=True, exist_ok=True)
    with open(self._progress / "lock", "w") as lock:
      try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError as error:
        raise PrepareError(
          f"another process is writing to {self.folder}: wait for it, or "
          "choose another folder"
        ) from error
      path = self._progress / "plan.json"
      if path.exists():
        begun = read_json_object(path, max_bytes=_MAX_FILE_BYTES)
        require_equal_plans(self.folder, begun, plan)
      else:
        replace_file(path, json.dumps(plan, sort_keys=True).encode())
      yield

  def partial_path(self, name: str) -> pathlib.Path:
    """Where a shard lies while it is written."""
    return self._progress / name

  def finish(self, finished: FinishedShard) -> None:
    """Moves a shard that was written to `partial_path` to its place."""
    name = finished.shard.name
    with open(self.partial_path(name), "rb") as file:
      os.fsync(file.fileno())
    report = json.dumps(dataclasses.asdict(finished), sort_keys=True)
    # A report that is lost or damaged only costs writing the shard again.
    replace_file(
      self._progress / f"{name}.json",
      report.encode(),
      survives_power_loss=False,
    )
    os.replace(self.partial_path(name), self.folder / name)

  def finished(self, name: str) -> FinishedShard | None:
    """What `finish` was told about a shard, or None if it must be written."""
    report, path = self._progress / f"{name}.json", self.folder / name
    if not (report.is_file() and path.is_file()):
      return None
    try:
      body = read_json_object(report, max_bytes=_MAX_FILE_BYTES)
      shard = Shard(**body["shard"])
      removed, bad = body["removed"], tuple(body["bad_records"])
    except (KeyError, TypeError, ValueError):
      return None
    if path.stat().st_size != shard.num_bytes:
      return None
    return FinishedShard(shard=shard, removed=removed, bad_records=bad)

  def clear(self) -> None:
    """Deletes what only unfinished folders have."""
    shutil.rmtree(self._progress, ignore_errors=True)

  def _refuse_other_contents(self) -> None:
    if self.folder.exists() and not self.folder.is_dir():
      raise PrepareError(f"{self.folder} is a file: choose a new folder")
    if not self.folder.exists() or (self._progress / "plan.json").exists():
      return
    others = sorted(set(os.listdir(self.folder)) - {IN_PROGRESS})
    if others:
      raise PrepareError(
        f"{self.folder} holds {others[0]} and more that ddit prepare did not "
        "write: choose a new or empty folder"
      )


def require_equal_plans(
  folder: pathlib.Path, begun: Mapping[str, Any], plan: Mapping[str, Any]
) -> None:
  """Raises PrepareError, naming the differences, unless plans are equal."""
  changed = [
    f"{key} {begun.get(key)!r} instead of {plan.get(key)!r}"
    for key in sorted({*begun, *plan})
    if begun.get(key) != plan.get(key)
  ]
  if changed:
    raise PrepareError(
      f"{folder} was prepared from another source or with other options "
      f"({', '.join(changed)}): choose another folder, or delete this one"
    )


def is_finished(folder: pathlib.Path) -> bool:
  """True if dataset.json is there, which is written last."""
  return (folder / FILE_NAME).is_file()


# One record a chunk is what random access needs; images do not compress.
_OPTIONS = "group_size:1,uncompressed"
# ArrayRecord's headers and padding, measured with 0 to 100,000 records of 1
# byte to 1 MB: never more than these together.
_BYTES_PER_SHARD, _BYTES_PER_RECORD, _BLOCK_FACTOR = 131_072, 64, 1.001


def shards_bytes(
  num_records: int, *, num_shards: int, bytes_per_record: float
) -> int:
  """Size of some shards, a little above what it will be."""
  payload = num_records * (bytes_per_record + _BYTES_PER_RECORD)
  return int(_BLOCK_FACTOR * payload) + _BYTES_PER_SHARD * num_shards


class ShardWriter:
  """ArrayRecord's writer, whose errors are those of the disk."""

  def __init__(self, path: pathlib.Path):
    self._path = path
    self._writer = ArrayRecordWriter(str(path), _OPTIONS)

  def __enter__(self) -> "ShardWriter":
    return self

  def __exit__(self, kind: Any, *_: Any) -> None:
    try:
      self._writer.close()
    except RuntimeError as error:
      # An error on the way here says more than the one of closing.
      if kind is None:
        raise self._failed(error) from error

  def write(self, record: bytes) -> None:
    """Appends a record.

    Raises:
      PrepareError: it cannot be written.
    """
    try:
      self._writer.write(record)
    except RuntimeError as error:
      raise self._failed(error) from error

  def _failed(self, error: RuntimeError) -> PrepareError:
    cause = " ".join(str(error).split())
    return PrepareError(
      f"{self._path} cannot be written ({cause}): make room and run again; "
      "finished shards are kept"
    )
