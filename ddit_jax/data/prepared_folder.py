"""dataset.json: what a folder of prepared ArrayRecord shards holds.

It is written last, so a folder without it is not finished. It names every
shard with its size and hash, and holds neither times nor paths: equal
datasets have equal files.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from ddit_jax.data import record_format
from ddit_jax.data.durable_files import read_json_object, replace_file

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
    "format_version": record_format.VERSION,
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
  if body.get("format") != FORMAT or version != record_format.VERSION:
    raise ValueError(
      f"{path} is {body.get('format')!r} version {version!r}, this program "
      f"reads {FORMAT!r} version {record_format.VERSION}: prepare it anew"
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
