"""Prepared ArrayRecord shards, the fastest source: one read per example."""

import collections
import fnmatch
import glob
import os
import pathlib
from collections.abc import Mapping, Sequence

from ddit_jax.data.example import Example, decode_example
from ddit_jax.data.prepare.prepare import EXAMPLES
from ddit_jax.data.prepare.shards import (
  SHARD_SUFFIX,
  Shard,
  ShardReader,
  check_shards,
  read_dataset,
  shard_names,
  shards_fingerprint,
)
from ddit_jax.files import local_path
from ddit_jax.json_files import file_hash


class _ArrayRecordSource:
  """The examples of shards, one after the other."""

  def __init__(
    self,
    name: str,
    shards: Sequence[tuple[pathlib.Path, Shard]],
    *,
    removed: Mapping[str, int],
    instruction: str | None = None,
  ):
    """Opens no file yet; readers open when first used and are shared.

    Args:
      name: name in the config.
      shards: (folder, shard) in the order of their records; at least one.
      removed: filter's name or bad record's reason to the number of records
        that were skipped when the folder was prepared.
      instruction: see `data.example.instruction_of`.
    """
    self.name, self.instruction = name, instruction
    self.removed = dict(removed)
    self._records = ShardReader(shards)

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: int) -> Example:
    """One example.

    Raises:
      BadRecord: corrupt_shard, or what `decode` raises.
      IndexError: index outside 0..len-1.
    """
    if not 0 <= index < len(self):
      raise IndexError(f"{self.name} has {len(self)} records, not {index}")
    shard, number = self._records.place(index)
    record_id = f"{self._records.shards[shard].name}:{number}"
    return decode_example(self._records.read(index, record_id), record_id)

  def fingerprint(self) -> str:
    """Digest of the shards' hashes: moving the folder does not change it."""
    return shards_fingerprint(self._records.shards)


def open_array_record(
  name: str, *, path: str, check_hashes: bool = False
) -> _ArrayRecordSource:
  """Opens what `ddit prepare` wrote.

  Args:
    name: name in the config.
    path: a prepared folder, or a pattern such as "folder/shard-0000*", which
      may match in several folders.
    check_hashes: True reads every shard once and compares its hash; sizes are
      always compared.

  Raises:
    ValueError: the path is missing, a folder is unfinished, or a shard is
      missing, of another size, changed or not listed in dataset.json.
  """
  if not isinstance(path, str | os.PathLike):
    raise ValueError(f"path must be a folder or a pattern, not {path!r}")
  local_path(path, what="path")
  folders = _matches(os.path.expanduser(path))
  shards: list[tuple[pathlib.Path, Shard]] = []
  removed: collections.Counter[str] = collections.Counter()
  instructions = set()
  for folder, (pattern, found) in folders.items():
    manifest = read_dataset(folder, EXAMPLES)
    wanted = [s for s in manifest.shards if fnmatch.fnmatch(s.name, pattern)]
    check_shards(folder, wanted, found=found)
    if check_hashes:
      _check_hashes(folder, wanted)
    shards += [(folder, shard) for shard in wanted]
    removed.update(manifest.removed)
    removed.update(manifest.bad_records)
    instructions.add(manifest.source.get("instruction"))
  if not sum(shard.num_records for _, shard in shards):
    raise ValueError(f"the shards of {path} hold no records")
  return _ArrayRecordSource(
    name,
    shards,
    removed=removed,
    instruction=instructions.pop() if len(instructions) == 1 else None,
  )


def _matches(path: str) -> dict[pathlib.Path, tuple[str, list[str]]]:
  """Folder -> (pattern of shard names, names of shard files found)."""
  every_shard = f"*{SHARD_SUFFIX}"
  if os.path.isdir(path):
    folder = pathlib.Path(path)
    return {folder: (every_shard, shard_names(folder))}
  found = collections.defaultdict(list)
  for match in map(pathlib.Path, glob.glob(path)):
    if match.suffix == SHARD_SUFFIX:
      found[match.parent].append(match.name)
  if not found:
    raise ValueError(
      f"{path} matches no folder and no {every_shard} file: give the folder "
      "that ddit prepare wrote"
    )
  pattern = os.path.basename(path)
  return {folder: (pattern, found[folder]) for folder in sorted(found)}


def _check_hashes(folder: pathlib.Path, shards: Sequence[Shard]) -> None:
  for shard in shards:
    found = file_hash(folder / shard.name)
    if found != shard.blake2b:
      raise ValueError(
        f"{folder / shard.name} was changed or damaged: its hash is {found} "
        f"instead of {shard.blake2b}; copy it again or prepare it again"
      )
