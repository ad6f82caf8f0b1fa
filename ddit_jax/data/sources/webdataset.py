"""WebDataset tar shards with random access: records are read in place."""

import concurrent.futures
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ddit_jax.data.example import BadRecord, Example
from ddit_jax.data.image_header import Filters, filters_from
from ddit_jax.data.sources import annotations, paths
from ddit_jax.data.sources.annotations import TextError
from ddit_jax.data.sources.paths import (
  ChangedFile,
  FileFacts,
  OpenFile,
  OpenFiles,
  PathSpec,
)
from ddit_jax.data.sources.tar import BLOCK, is_header, stored_name
from ddit_jax.data.sources.tar_index import (
  TarIndex,
  index_fingerprint,
  open_index,
)
from ddit_jax.data.sources.tar_samples import SampleRules, split_name

_CACHE = "tar_indexes"
# Network folders answer slowly.
_THREADS = 16


class _WebDatasetSource:
  """The samples of tar shards, one `os.pread` for each part of a sample.

  The index is memory-mapped: 32 bytes per sample on disk, and in memory only
  the pages that the system caches.

  Attributes:
    name: name in the config.
    removed: reason to the number of samples that the index skips.
    faults: the first of those that cannot be used.
    index: of the shards.
  """

  name: str
  removed: Mapping[str, int]
  index: TarIndex

  def __init__(
    self,
    name: str,
    *,
    folder: pathlib.Path,
    shards: Sequence[FileFacts],
    rules: SampleRules,
    index: TarIndex,
  ):
    """Opens no shard yet.

    Args:
      name: name in the config.
      folder: common to all shards.
      shards: in the order of the index.
      rules: the index was built with.
      index: of these shards.
    """
    self.name, self.index = name, index
    self.removed = dict(index.report.removed)
    self.faults = tuple(index.report.faults())
    self._shards, self._rules = shards, rules
    self._files = OpenFiles([folder / shard.name for shard in shards], shards)

  def __len__(self) -> int:
    return len(self.index.records)

  def __getitem__(self, index: int) -> Example:
    """One sample.

    Its record_id is "shard.tar:key"; keys of over 100 bytes are truncated.
    The caption is NAME.txt, or without one the JSON's; rewritten captions are
    NAME.recap.txt and the JSON's. Without one, rewritten captions are used.

    Raises:
      BadRecord: missing_file, unreadable_file, corrupt_shard, bad_text
        or bad_json.
      IndexError: index outside 0..len-1.
    """
    if not 0 <= index < len(self):
      raise IndexError(f"{self.name} has {len(self)} records, not {index}")
    number = int(np.searchsorted(self.index.ends, index, side="right"))
    record = self.index.records[index].item()
    shard = self._shards[number].name
    record_id = f"{shard}:{index}"
    try:
      file = self._files[number]
      key, image = _read_image(file, *record[:2])
      record_id = f"{shard}:{key}"
      caption, metadata, rewritten = (
        _read_member(file, *record[at : at + 2]) for at in (2, 4, 6)
      )
      plain, rewritten = self._texts(caption, metadata, rewritten)
    except (TextError, ChangedFile, OSError) as error:
      reason = paths.reason_of(error, changed="corrupt_shard")
      raise BadRecord(reason, str(error), record_id) from error
    return Example(
      record_id=record_id,
      image=image,
      texts=plain or rewritten or ("",),
      rewritten=rewritten,
    )

  def fingerprint(self) -> str:
    """Digest of the shards' names, sizes and times, and of the rules."""
    return index_fingerprint(self._shards, self._rules)

  def _texts(
    self, caption: bytes, metadata: bytes, rewritten: bytes
  ) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(captions, rewritten captions), none of them blank."""
    fields = annotations.parse_object(metadata) if metadata else {}
    plain = annotations.text_of_bytes(caption)
    own = annotations.text_of_bytes(rewritten)
    listed = annotations.clean_texts(fields.get(self._rules.rewritten_key))
    if plain:
      captions = (plain,)
    else:
      captions = annotations.clean_texts(fields.get(self._rules.caption_key))
    return captions, (own, *listed) if own else listed


def open_webdataset(
  name: str,
  *,
  path: PathSpec,
  filters: Mapping[str, Any] | Filters | None = None,
  caption_key: str = SampleRules.caption_key,
  rewritten_key: str = SampleRules.rewritten_key,
  index_folder: str | None = None,
  workers: int | None = None,
) -> _WebDatasetSource:
  """Opens tar shards; the first time, builds their index.

  Args:
    name: name in the config.
    path: tar files, see `paths.list_files`.
    filters: see `Filters`.
    caption_key: of the caption in NAME.json.
    rewritten_key: of the rewritten caption in NAME.json.
    index_folder: for the index; by default the folder of the shards, or, where
      that cannot be written, ~/.cache/ddit_jax/tar_indexes.
    workers: processes that build the index; by default one for each core.

  Raises:
    ValueError: a shard is missing, compressed or unreadable; no sample is
      usable; an option is invalid.
  """
  rules = SampleRules(
    filters=filters_from(filters),
    caption_key=caption_key,
    rewritten_key=rewritten_key,
  )
  if workers is None:
    workers = len(os.sched_getaffinity(0))
  if type(workers) is not int or workers < 1:
    raise ValueError(f"workers must be a positive number, not {workers!r}")
  files = paths.list_files(path, suffixes=(".tar",))
  folder = paths.shared_folder(files)
  names = [str(file.relative_to(folder)) for file in files]
  with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
    shards = list(pool.map(paths.file_facts, files, names))
  try:
    index = open_index(
      folder,
      shards,
      rules,
      index_folder=paths.index_folder(folder, index_folder, cache=_CACHE),
      workers=workers,
    )
  except OSError as error:
    raise ValueError(
      f"the index of {folder} could not be built or read: {error}"
    ) from error
  return _WebDatasetSource(
    name, folder=folder, shards=shards, rules=rules, index=index
  )


def _read_member(file: OpenFile, block: int, count: int) -> bytes:
  """A member's data; block 0 means there is none."""
  return file.read(block * BLOCK, count) if block else b""


def _read_image(file: OpenFile, block: int, count: int) -> tuple[str, bytes]:
  """(key, data) of a member; its header is checked."""
  start = (block - 1) * BLOCK
  both = file.read(start, BLOCK + count)
  header = both[:BLOCK]
  if not is_header(header):
    raise ChangedFile(f"no member begins at byte {start}")
  key, _ = split_name(stored_name(header))
  return (key or b"?").decode("utf-8", errors="replace"), both[BLOCK:]
