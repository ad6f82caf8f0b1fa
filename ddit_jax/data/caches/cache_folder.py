"""The unfinished folder of a cache: pairs of shards, finished one by one."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from ddit_jax.data.durable_files import read_json_object, replace_file
from ddit_jax.data.prepared_folder import SHARD_SUFFIX, Shard, file_hash
from ddit_jax.data.unfinished_folder import UnfinishedFolder

BAD_RECORDS_NAME = "bad_records.jsonl"

_MAX_FILE_BYTES = 2**28


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinishedPart:
  """The shards of one range of the source, and what became of its records.

  Attributes:
    shards: of latents; and of features, if there are any.
    bad_records: {"index", "record_id", "reason", "detail"} of each.
    bad_texts: reason to number of texts without features.
    num_texts: texts with features.
    num_truncated: of them, those that were cut.
  """

  shards: tuple[Shard, ...]
  bad_records: tuple[Mapping[str, Any], ...]
  bad_texts: Mapping[str, int]
  num_texts: int
  num_truncated: int


def part_names(part: int, num_parts: int, has_features: bool) -> list[str]:
  """ "latents-00002-of-00016.array_record", and that of "features"."""
  kinds = ("latents", "features") if has_features else ("latents",)
  return [f"{k}-{part:05d}-of-{num_parts:05d}{SHARD_SUFFIX}" for k in kinds]


def written_shard(path: pathlib.Path, num_records: int) -> Shard:
  """What a file holds that was just written; waits for the disk."""
  with open(path, "rb") as file:
    os.fsync(file.fileno())
  return Shard(
    name=path.name,
    num_records=num_records,
    num_bytes=path.stat().st_size,
    blake2b=file_hash(path),
  )


def finish_part(folder: UnfinishedFolder, finished: FinishedPart) -> None:
  """Moves shards that lie at their `partial_path` to their places."""
  report = json.dumps(dataclasses.asdict(finished), sort_keys=True)
  names = [shard.name for shard in finished.shards]
  # A report that is lost or damaged only costs writing the shards again.
  replace_file(
    _report_path(folder, names[0]), report.encode(), survives_power_loss=False
  )
  for name in names:
    os.replace(folder.partial_path(name), folder.folder / name)


def finished_part(
  folder: UnfinishedFolder, names: Iterable[str]
) -> FinishedPart | None:
  """What `finish_part` was told, or None if these shards must be written."""
  names = list(names)
  path = _report_path(folder, names[0])
  if not path.is_file():
    return None
  try:
    body = read_json_object(path, max_bytes=_MAX_FILE_BYTES)
    shards = tuple(Shard(**shard) for shard in body.pop("shards"))
    bad = tuple(body.pop("bad_records"))
    finished = FinishedPart(shards=shards, bad_records=bad, **body)
    sizes = [(folder.folder / name).stat().st_size for name in names]
  except (KeyError, TypeError, ValueError, FileNotFoundError):
    return None
  expected = [(shard.name, shard.num_bytes) for shard in shards]
  is_there = expected == list(zip(names, sizes, strict=True))
  return finished if is_there else None


def list_bad_records(
  folder: UnfinishedFolder, entries: Iterable[Mapping[str, Any]]
) -> None:
  """Writes bad_records.jsonl."""
  lines = [json.dumps(entry, sort_keys=True) for entry in entries]
  # This also makes the names of the shards survive a power loss.
  replace_file(
    folder.folder / BAD_RECORDS_NAME,
    "".join(f"{line}\n" for line in lines).encode(),
  )


def _report_path(folder: UnfinishedFolder, name: str) -> pathlib.Path:
  return folder.partial_path(f"{name}.json")
