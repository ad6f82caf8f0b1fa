"""WebDataset tar shards with random access: records are read in place."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ddit_jax.data.examples import BadRecord, Example
from ddit_jax.data.filters import Filters, filters_from
from ddit_jax.data.sources import (
  file_lists,
  index_folders,
  sample_texts,
  tar_index,
  tar_walk,
)
from ddit_jax.data.sources.file_lists import PathSpec
from ddit_jax.data.sources.open_files import ChangedFile, OpenFile, OpenFiles
from ddit_jax.data.sources.sample_texts import TextError
from ddit_jax.data.sources.tar_index_file import IndexReport, Shard, TarIndex
from ddit_jax.data.sources.tar_samples import SampleRules, split_name
from ddit_jax.data.sources.tar_walk import BLOCK

_CACHE = "tar_indexes"


class WebDatasetSource:
  """The samples of tar shards, one `os.pread` for each part of a sample.

  The index is memory-mapped: 32 bytes a sample on disk, and in memory only
  what the system caches of it.

  Attributes:
    name: as the config calls it.
    removed: reason to the number of samples the index left out.
    report: all that building the index saw.
  """

  name: str
  removed: Mapping[str, int]
  report: IndexReport

  def __init__(
    self,
    name: str,
    *,
    folder: pathlib.Path,
    shards: Sequence[Shard],
    rules: SampleRules,
    index: TarIndex,
  ):
    """Opens no shard yet.

    Args:
      name: as the config calls it.
      folder: that all shards share.
      shards: in the order of the index.
      rules: the index was built with.
      index: of these shards.
    """
    self.name, self.report = name, index.report
    self.removed = dict(index.report.removed)
    self._shards, self._rules, self._index = shards, rules, index
    self._files = OpenFiles(
      [folder / shard.name for shard in shards],
      [shard.num_bytes for shard in shards],
    )

  def __len__(self) -> int:
    return len(self._index.records)

  def __getitem__(self, index: int) -> Example:
    """One sample.

    Its record_id is "shard.tar:key"; keys of over 100 bytes are cut off there.
    The caption is NAME.txt, or without one the JSON's; rewritten captions are
    NAME.recap.txt and the JSON's. Without caption the rewritten ones count.

    Raises:
      BadRecord: missing_file, unreadable_file, corrupt_shard, bad_text
        or bad_json.
      IndexError: index outside 0..len-1.
    """
    if not 0 <= index < len(self):
      raise IndexError(f"{self.name} has {len(self)} records, not {index}")
    number = int(np.searchsorted(self._index.ends, index, side="right"))
    record = self._index.records[index].item()
    record_id = f"{self._shards[number].name}:{index}"
    try:
      file = self._files[number]
      header, image = _read_image(file, *record[:2])
      record_id = _record_id(self._shards[number], header)
      caption, metadata, rewritten = (
        _read(file, *record[at : at + 2]) for at in (2, 4, 6)
      )
      plain, rewritten = self._texts(caption, metadata, rewritten)
    except TextError as error:
      raise BadRecord(error.reason, str(error), record_id) from error
    except ChangedFile as error:
      raise BadRecord("corrupt_shard", str(error), record_id) from error
    except FileNotFoundError as error:
      raise BadRecord("missing_file", str(error), record_id) from error
    except OSError as error:
      raise BadRecord("unreadable_file", str(error), record_id) from error
    return Example(
      record_id=record_id,
      image=image,
      texts=sample_texts.captions(plain, rewritten) or ("",),
      rewritten=rewritten,
    )

  def fingerprint(self) -> str:
    """Digest of the shards' names, sizes and times, and of the rules."""
    return tar_index.fingerprint(self._shards, self._rules)

  def _texts(
    self, caption: bytes, metadata: bytes, rewritten: bytes
  ) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(captions, rewritten captions), none of them blank."""
    fields = sample_texts.parse_object(metadata) if metadata else {}
    plain = sample_texts.text_of_bytes(caption)
    own = sample_texts.text_of_bytes(rewritten)
    return (
      (plain,)
      if plain
      else sample_texts.clean_texts(fields.get(self._rules.caption_key)),
      ((own,) if own else ())
      + sample_texts.clean_texts(fields.get(self._rules.rewritten_key)),
    )


def open_webdataset(
  name: str,
  *,
  path: PathSpec,
  filters: Mapping[str, Any] | Filters | None = None,
  caption_key: str = SampleRules.caption_key,
  rewritten_key: str = SampleRules.rewritten_key,
  index_folder: str | None = None,
  workers: int | None = None,
) -> WebDatasetSource:
  """Opens tar shards; the first time, builds their index.

  Args:
    name: as the config calls it.
    path: tar files, see `file_lists.list_files`.
    filters: see `Filters`.
    caption_key: of the caption in NAME.json.
    rewritten_key: of the rewritten caption in NAME.json.
    index_folder: for the index; by default the folder of the shards, or, where
      that cannot be written, ~/.cache/ddit_jax/tar_indexes.
    workers: processes that build the index; by default one for each core.

  Raises:
    ValueError: a shard is missing, compressed or unreadable; no sample is
      usable; a setting is wrong.
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
  paths = file_lists.list_files(path, suffixes=(".tar",))
  folder = file_lists.shared_folder(paths)
  shards = tar_index.look_at(
    folder, [str(p.relative_to(folder)) for p in paths]
  )
  try:
    index = tar_index.open_index(
      folder,
      shards,
      rules,
      index_folder=index_folders.index_folder(
        folder, index_folder, cache=_CACHE
      ),
      workers=workers,
    )
  except OSError as error:
    raise ValueError(
      f"the index of {folder} could not be built or read: {error}"
    ) from error
  return WebDatasetSource(
    name, folder=folder, shards=shards, rules=rules, index=index
  )


def _read(file: OpenFile, block: int, count: int) -> bytes:
  """A member's data; block 0 means there is none."""
  return file.read(block * BLOCK, count) if block else b""


def _read_image(file: OpenFile, block: int, count: int) -> tuple[bytes, bytes]:
  """(header, data) of a member; the header shows that it still is one."""
  start = (block - 1) * BLOCK
  both = file.read(start, BLOCK + count)
  if not tar_walk.is_header(both[:BLOCK]):
    raise ChangedFile(f"no member begins at byte {start}")
  return both[:BLOCK], both[BLOCK:]


def _record_id(shard: Shard, header: bytes) -> str:
  key, _ = split_name(tar_walk.stored_name(header))
  shown = (key or b"?").decode("utf-8", errors="replace")
  return f"{shard.name}:{shown}"
