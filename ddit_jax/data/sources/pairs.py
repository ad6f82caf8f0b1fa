"""Preference pairs: two images of a caption, or two texts about an image."""

from typing import Any

from ddit_jax.data.example import Example, Pair
from ddit_jax.data.sources.annotations import TextError, clean_text, entries
from ddit_jax.data.sources.image_table import (
  FileRecord,
  FileSource,
  RecordTable,
  Skipped,
)
from ddit_jax.data.sources.paths import existing_file, images_folder
from ddit_jax.data.text import question_prompt
from ddit_jax.files import is_unsafe


class _PairSource:
  """Pairs whose images are files; a `Source` of `Pair`s.

  Attributes:
    name: name in the config.
    removed: reason to the number of records that were skipped.
    faults: the first of those that cannot be used.
    instruction: see `data.example.instruction_of`.
    has_pairs: True.
  """

  instruction, has_pairs = "", True

  def __init__(self, chosen: FileSource, rejected: FileSource):
    self.name, self.removed = chosen.name, chosen.removed
    self.faults = chosen.faults
    self._chosen, self._rejected = chosen, rejected

  def __len__(self) -> int:
    return len(self._chosen)

  def __getitem__(self, index: int) -> Pair:
    """One pair; raises as `FileSource`."""
    return paired(self._chosen[index], self._rejected[index])

  def fingerprint(self) -> str:
    """Digest of all texts and image names, independent of the location."""
    return self._chosen.fingerprint() + self._rejected.fingerprint()


def paired(chosen: Example, rejected: Example) -> Pair:
  """A pair of two examples."""
  return Pair(
    record_id=chosen.record_id,
    image=chosen.image,
    prompt=chosen.prompt,
    texts=chosen.texts,
    rejected=rejected,
  )


def open_pairs(
  name: str,
  *,
  path: str,
  images: str | None = None,
  follow_links: bool = False,
) -> _PairSource:
  """Opens a file of preference pairs.

  A record is {"caption", "chosen", "rejected"} with two paths of images, or
  {"question", "image"?, "chosen", "rejected"} with two texts; a blank question
  asks for a caption. A file has records for one task: what the other would make
  of them are pairs of equals. What cannot be used is skipped and counted, also
  pairs of equals ("equal_pair").

  Args:
    name: name in the config.
    path: a JSON list, JSON lines, CSV or Parquet.
    images: folder that image paths start from; by default the file's own.
    follow_links: True reads images through links that leave the folder.

  Raises:
    ValueError: a file is missing or no list, or no pair can be used.
  """
  file = existing_file(path, what="path")
  folder = images_folder(images or file.parent, follow_links=follow_links)
  tables, skipped = (RecordTable(), RecordTable()), Skipped()
  for record_id, entry in entries(file):
    try:
      if isinstance(entry, TextError):
        raise entry
      records = _records(record_id, entry)
    except TextError as error:
      skipped.add(error.reason, record_id, str(error))
      continue
    for table, record in zip(tables, records, strict=True):
      table.append(record)
  # What was skipped is said and counted once for both.
  return _PairSource(
    FileSource(name, tables[0], images=folder, skipped=skipped),
    FileSource(name, tables[1], images=folder, skipped=Skipped()),
  )


def _records(
  record_id: str, entry: dict[str, Any]
) -> tuple[FileRecord, FileRecord]:
  """The chosen and the rejected one; raises TextError."""
  values = [_text(entry, key) for key in ("chosen", "rejected")]
  if values[0] == values[1]:
    raise TextError("equal_pair", "chosen and rejected are the same")
  if "caption" in entry:
    texts = (_text(entry, "caption"),)
    chosen, rejected = (
      FileRecord(record_id, _path(value), "", texts) for value in values
    )
    return chosen, rejected
  question = clean_text(entry.get("question") or "")
  image = _path(_text(entry, "image")) if entry.get("image") else None
  prompt = question_prompt(question) if question else ""
  # Both are about one image, which is read once.
  chosen, rejected = (
    FileRecord(record_id, file, prompt, (value,))
    for file, value in zip((image, None), values, strict=True)
  )
  return chosen, rejected


def _text(entry: dict[str, Any], key: str) -> str:
  text = clean_text(entry.get(key))
  if not text:
    raise TextError("empty_text", f"{key} is blank")
  return text


def _path(value: str) -> str:
  if is_unsafe(value):
    raise TextError("unsafe_path", f"the image {value!r}")
  return value
