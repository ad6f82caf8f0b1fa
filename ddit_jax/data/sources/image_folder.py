"""Images in a folder, with captions in one list or in files beside them."""

import itertools
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ddit_jax.data.example import BadRecord
from ddit_jax.data.image_header import Filters, filters_from
from ddit_jax.data.sources import annotations, paths
from ddit_jax.data.sources.annotations import TextError
from ddit_jax.data.sources.caption_files import side_by_side
from ddit_jax.data.sources.image_lists import (
  ListKeys,
  UnfilteredRecord,
  UnfilteredRecords,
  listed,
)
from ddit_jax.data.sources.image_table import (
  FileRecord,
  FileSource,
  RecordTable,
  Skipped,
)
from ddit_jax.data.sources.paths import SafeFolder, images_folder
from ddit_jax.files import local_path

# Headers are read by many threads: network folders answer slowly.
_THREADS, _BATCH = 16, 4096


def open_image_folder(
  name: str,
  *,
  path: str,
  images: str | None = None,
  filters: Mapping[str, Any] | Filters | None = None,
  image_key: str = ListKeys().image,
  caption_key: str = ListKeys().caption,
  rewritten_key: str = ListKeys().rewritten,
  follow_links: bool = False,
) -> FileSource:
  """Opens a folder of captioned images.

  A list is a JSON list, JSON lines, CSV or Parquet of records with
  `image_path`, `caption`, `re_caption`, and, where known, `height`, `width` and
  `ratio`, as the D-DiT release has them; `file_name` and `text`, as Hugging
  Face has them; or COCO's captions_*.json. Without a list, NAME.jpg (.jpeg,
  .png, .webp) belongs to NAME.txt beside it, in all subfolders that are not
  hidden, or to a record of metadata.jsonl, .csv or .parquet. Texts are UTF-8,
  or what their byte order mark says.

  Headers are read only where filters need sides that the list does not give.
  Texts are held in memory: use WebDataset for more than ten million images.

  Args:
    name: name in the config.
    path: the list, or a folder without one.
    images: folder that image paths start from; by default the list's own.
    filters: see `Filters`.
    image_key: of the image's path in the list.
    caption_key: of the caption, a string or a list of strings.
    rewritten_key: of the rewritten caption, the same.
    follow_links: True reads through links that leave the folder, subfolders
      that are links included. Without it, such a subfolder is skipped as
      "linked_folder".

  Raises:
    ValueError: a missing path, an invalid list, or no remaining records.
  """
  chosen = filters_from(filters)
  if not isinstance(path, str | os.PathLike):
    raise ValueError(f"path must be a file or folder, not {path!r}")
  start = local_path(path, what="path")
  keys = ListKeys(image_key, caption_key, rewritten_key)
  needs_captions = chosen.drop_empty_captions
  if start.is_dir():
    if images is not None:
      raise ValueError(
        f"images={images} needs a list: path {path} is a folder, whose images "
        "have their captions beside them"
      )
    folder = SafeFolder(start, follow_links=follow_links)
    unfiltered = side_by_side(folder, keys, needs_captions=needs_captions)
  else:
    file = paths.existing_file(path, what="path")
    folder = images_folder(images or file.parent, follow_links=follow_links)
    unfiltered = listed(file, keys, needs_captions=needs_captions)
  table, skipped = _table(_filtered(unfiltered, folder, chosen))
  return FileSource(name, table, images=folder, skipped=skipped)


# A record that stays, or why it does not.
_Judged = FileRecord | BadRecord | str


def _table(found: Iterator[_Judged]) -> tuple[RecordTable, Skipped]:
  """The records that stay, and the others."""
  table, skipped = RecordTable(), Skipped()
  for kept in found:
    if isinstance(kept, str):
      skipped.add(kept)
    elif isinstance(kept, BadRecord):
      skipped.add(kept.reason, kept.record_id, kept.detail)
    else:
      table.append(kept)
  return table, skipped


def _filtered(
  unfiltered: UnfilteredRecords, folder: SafeFolder, filters: Filters
) -> Iterator[_Judged]:
  """Records that stay, and why others do not, in order."""

  def judge(unfiltered: UnfilteredRecord | BadRecord | str) -> _Judged:
    if not isinstance(unfiltered, UnfilteredRecord):
      return unfiltered
    record = unfiltered.record
    try:
      annotations.check_unicode(record.image)
    except TextError as error:
      return BadRecord(error.reason, str(error), record.image)
    if filters.drop_empty_captions and not record.texts:
      return "empty_caption"
    refused = _refused_size(unfiltered, folder, filters)
    return refused or record._replace(texts=record.texts or ("",))

  with ThreadPoolExecutor(_THREADS) as pool:
    while batch := list(itertools.islice(unfiltered, _BATCH)):
      # Threads only add overhead where no file is read.
      needs_files = filters.needs_size and any(
        isinstance(one, UnfilteredRecord) and one.size is None for one in batch
      )
      yield from pool.map(judge, batch) if needs_files else map(judge, batch)


def _refused_size(
  unfiltered: UnfilteredRecord, folder: SafeFolder, filters: Filters
) -> BadRecord | str | None:
  """Why an image is skipped for its sides, or None."""
  if not filters.needs_size:
    return None
  if unfiltered.size is not None:
    return filters.refused_size(unfiltered.size)
  if unfiltered.ratio is not None:
    refused = filters.refused_ratio(unfiltered.ratio)
    if refused or not filters.needs_sides:
      return refused
  record = unfiltered.record
  try:
    size = folder.image_size(record.image, record.record_id)
  except BadRecord as error:
    return error
  return filters.refused_size(size)
