"""Images in a folder, with captions in one list or in files beside them."""

import collections
import itertools
import math
import os
import pathlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from ddit_jax.data.example import BadRecord
from ddit_jax.data.image_header import Filters, ImageSize, filters_from
from ddit_jax.data.sources import annotations, paths
from ddit_jax.data.sources.annotations import TextError
from ddit_jax.data.sources.image_table import (
  FileRecord,
  FileSource,
  RecordTable,
)
from ddit_jax.data.sources.paths import SafeFolder, images_folder, is_unsafe
from ddit_jax.files import local_path

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")

# Headers are read by many threads: network folders answer slowly.
_THREADS, _BATCH = 16, 4096


class _Candidate(NamedTuple):
  """A record before filters; sides and ratio are None if unknown."""

  record: FileRecord
  size: ImageSize | None
  ratio: float | None


# A candidate, or the reason that the record is skipped.
_Candidates = Iterator[_Candidate | str]


def open_image_folder(
  name: str,
  *,
  path: str,
  images: str | None = None,
  filters: Mapping[str, Any] | Filters | None = None,
  image_key: str = "image_path",
  caption_key: str = "caption",
  rewritten_key: str = "re_caption",
  follow_links: bool = False,
) -> FileSource:
  """Opens a folder of captioned images.

  A list is a JSON list, JSON lines or CSV of records with `image_path`,
  `caption`, `re_caption`, and, where known, `height`, `width` and `ratio`, as
  the D-DiT release has them. Without a list, NAME.jpg (.jpeg, .png, .webp)
  belongs to NAME.txt beside it, in all subfolders.

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
  if start.is_dir():
    if images is not None:
      raise ValueError(
        f"images={images} needs a list: path {path} is a folder, whose images "
        "have their captions beside them"
      )
    folder = SafeFolder(start, follow_links=follow_links)
    candidates = _side_by_side(folder)
  else:
    file = paths.existing_file(path, what="path")
    folder = images_folder(images or file.parent, follow_links=follow_links)
    keys = image_key, caption_key, rewritten_key
    _check_columns(file, keys)
    candidates = _listed(file, keys)
  table, removed = _table(_filtered(candidates, folder, chosen))
  return FileSource(name, table, images=folder, removed=removed)


def _table(
  found: Iterator[FileRecord | str],
) -> tuple[RecordTable, collections.Counter[str]]:
  """The records, and how many were skipped for each reason."""
  removed, table = collections.Counter(), RecordTable()
  for kept in found:
    if isinstance(kept, str):
      removed[kept] += 1
    else:
      table.append(kept)
  return table, removed


def _check_columns(file: pathlib.Path, keys: tuple[str, str, str]) -> None:
  """Raises ValueError for a CSV that has no image or no kind of caption."""
  header = annotations.csv_header(file)
  image_key, caption_key, rewritten_key = keys
  missing = None
  if header is not None and image_key not in header:
    missing = "image_key", image_key
  elif header is not None and not {caption_key, rewritten_key} & set(header):
    missing = "caption_key", caption_key
  if missing:
    key, column = missing
    raise ValueError(
      f"{file} has no column {column!r}, it has {', '.join(header)}: name it "
      f"with {key}"
    )


def _listed(file: pathlib.Path, keys: tuple[str, str, str]) -> _Candidates:
  for record_id, entry in annotations.entries(file):
    if isinstance(entry, TextError):
      yield entry.reason
      continue
    try:
      yield _candidate(record_id, entry, keys)
    except TextError as error:
      yield error.reason


def _candidate(
  record_id: str, entry: Mapping[str, Any], keys: tuple[str, str, str]
) -> _Candidate | str:
  """Raises TextError if a field has another type."""
  image_key, caption_key, rewritten_key = keys
  if entry.get(image_key) is None:
    return "no_image"
  image = annotations.clean_text(entry[image_key])
  if is_unsafe(image):
    return "unsafe_path"
  plain = annotations.clean_texts(entry.get(caption_key))
  rewritten = annotations.clean_texts(entry.get(rewritten_key))
  record = FileRecord(
    *(record_id, image, ""),
    texts=plain or rewritten,
    rewritten=rewritten,
  )
  size = annotations.image_size_of(entry)
  return _Candidate(record, size, _ratio(entry.get("ratio")))


def _ratio(value: Any) -> float | None:
  """A quotient of sides, or None if it is not a positive number."""
  try:
    ratio = float(value)
  except (TypeError, ValueError, OverflowError):
    return None
  return ratio if math.isfinite(ratio) and ratio > 0 else None


def _side_by_side(folder: SafeFolder) -> _Candidates:
  """Images and texts of the same name, folder by folder in sorted order."""
  walked = {folder.path}
  for place, folders, names in os.walk(folder.path, followlinks=True):
    num_links = _choose_folders(folder, place, folders, walked)
    yield from ["linked_folder"] * num_links
    texts, images = {}, []
    for name in sorted(names):
      stem, suffix = os.path.splitext(name)
      if suffix.lower() == ".txt":
        texts.setdefault(stem, name)
      elif suffix.lower() in IMAGE_SUFFIXES:
        images.append((stem, name))
    below = os.path.relpath(place, folder.path)
    for stem, name in images:
      if stem not in texts:
        yield "no_text"
        continue
      image = os.path.normpath(os.path.join(below, name))
      text = os.path.normpath(os.path.join(below, texts[stem]))
      yield _with_text(folder, image, text)
    yield from ["no_image"] * len(set(texts) - {stem for stem, _ in images})


def _choose_folders(
  folder: SafeFolder, place: str, names: list[str], walked: set[str]
) -> int:
  """Reduces `names` to the subfolders to walk; how many links are skipped.

  Links to folders inside are passed over, because their images are found in the
  folder itself. No folder is walked twice, so cycles of links terminate.
  """
  num_skipped, chosen = 0, []
  for name in sorted(names):
    path = os.path.join(place, name)
    is_link, real = os.path.islink(path), os.path.realpath(path)
    if is_link and folder.holds(os.path.join(real, "")):
      continue
    if is_link and not folder.follow_links:
      num_skipped += 1
    elif real not in walked:
      walked.add(real)
      chosen.append(name)
  names[:] = chosen
  return num_skipped


def _with_text(folder: SafeFolder, image: str, text: str) -> _Candidate | str:
  try:
    image = annotations.clean_text(image)
    caption = annotations.text_of_bytes(folder.read(text, image))
  except (TextError, BadRecord) as error:
    return error.reason
  texts = (caption,) if caption else ()
  return _Candidate(FileRecord(image, image, "", texts), None, None)


def _filtered(
  candidates: _Candidates, folder: SafeFolder, filters: Filters
) -> Iterator[FileRecord | str]:
  """Records that stay, and the reasons of those that do not, in order."""

  def judge(candidate: _Candidate | str) -> FileRecord | str:
    if isinstance(candidate, str):
      return candidate
    record = candidate.record
    if filters.drop_empty_captions and not record.texts:
      return "empty_caption"
    refused = _refused_size(candidate, folder, filters)
    return refused or record._replace(texts=record.texts or ("",))

  with ThreadPoolExecutor(_THREADS) as pool:
    while batch := list(itertools.islice(candidates, _BATCH)):
      # Threads only add overhead where no file is read.
      needs_files = filters.needs_size and any(
        not isinstance(one, str) and one.size is None for one in batch
      )
      yield from pool.map(judge, batch) if needs_files else map(judge, batch)


def _refused_size(
  candidate: _Candidate, folder: SafeFolder, filters: Filters
) -> str | None:
  """The reason to skip an image for its sides, or None."""
  if not filters.needs_size:
    return None
  if candidate.size is not None:
    return filters.refused_size(candidate.size)
  if candidate.ratio is not None:
    refused = filters.refused_ratio(candidate.ratio)
    if refused or not filters.needs_sides:
      return refused
  record = candidate.record
  try:
    size = folder.image_size(record.image, record.record_id)
  except BadRecord as error:
    return error.reason
  return filters.refused_size(size)
