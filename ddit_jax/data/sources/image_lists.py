"""Lists of captioned images: D-DiT's own, Hugging Face's, COCO's."""

import collections
import itertools
import math
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ddit_jax.data.example import REASONS, BadRecord
from ddit_jax.data.image_header import ImageSize
from ddit_jax.data.sources import annotations
from ddit_jax.data.sources.annotations import Entry, TextError
from ddit_jax.data.sources.image_table import FileRecord
from ddit_jax.files import is_unsafe

# Names of the lists in folders that Hugging Face's imagefolder reads.
METADATA_NAMES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")

_NUM_PEEKED = 100


class ListKeys(NamedTuple):
  """Keys of a list's records; the defaults are those of the D-DiT release."""

  image: str = "image_path"
  caption: str = "caption"
  rewritten: str = "re_caption"


# Taken where records lack the default key.
_HUGGING_FACE = ListKeys("file_name", "text")


class UnfilteredRecord(NamedTuple):
  """A record before filters; sides and ratio are None if unknown."""

  record: FileRecord
  size: ImageSize | None
  ratio: float | None


# UnfilteredRecords, bad ones, and reasons to count one.
UnfilteredRecords = Iterator[UnfilteredRecord | BadRecord | str]


def listed(
  file: pathlib.Path,
  keys: ListKeys,
  *,
  needs_captions: bool = True,
  below: str = "",
) -> UnfilteredRecords:
  """The records of a list.

  Args:
    file: JSON, JSON lines, CSV, Parquet, or COCO's captions_*.json.
    keys: of the records.
    needs_captions: False accepts a list without any captions.
    below: folder that image paths start from, below the source's.

  Raises:
    ValueError: it is no list, or its records lack the keys.
  """
  entries = annotations.entries(file, coco=lambda body: _coco(body, keys))
  peeked = list(itertools.islice(entries, _NUM_PEEKED))
  keys = _resolved(file, keys, peeked, needs_captions)
  for record_id, entry in itertools.chain(peeked, entries):
    record_id = os.path.join(below, record_id)
    try:
      if isinstance(entry, TextError):
        raise entry
      yield _candidate(record_id, entry, keys, below)
    except TextError as error:
      is_fault = error.reason in REASONS
      yield (
        BadRecord(error.reason, str(error), record_id)
        if is_fault
        else error.reason
      )


def _resolved(
  file: pathlib.Path,
  keys: ListKeys,
  peeked: list[tuple[str, Entry | TextError]],
  needs_captions: bool,
) -> ListKeys:
  """The keys that the records have.

  Raises:
    ValueError: they lack one; the message names those that they have.
  """
  header = annotations.csv_header(file)
  entries = [entry for _, entry in peeked if isinstance(entry, dict)]
  names = header or list(dict.fromkeys(itertools.chain(*entries)))
  if not names:
    return keys
  for field, other in zip(keys._fields[:2], _HUGGING_FACE[:2], strict=True):
    key = getattr(keys, field)
    is_there = key in names or (field == "caption" and keys.rewritten in names)
    if is_there:
      continue
    if key == ListKeys._field_defaults[field] and other in names:
      keys = keys._replace(**{field: other})
    elif field == "image" or needs_captions:
      what = "column" if header else "key"
      raise ValueError(
        f"{file} has no {what} {key!r}, it has {', '.join(map(str, names))}: "
        f"name it with {field}_key"
      )
  return keys


def _candidate(
  record_id: str, entry: Mapping[str, Any], keys: ListKeys, below: str
) -> UnfilteredRecord:
  """Raises TextError if a field is missing or has another type."""
  if entry.get(keys.image) is None:
    raise TextError("no_image", f"no {keys.image!r}")
  image = annotations.clean_text(entry[keys.image])
  if is_unsafe(image):
    raise TextError("unsafe_path", f"the image {image!r}")
  plain = annotations.clean_texts(entry.get(keys.caption))
  rewritten = annotations.clean_texts(entry.get(keys.rewritten))
  record = FileRecord(
    *(record_id, os.path.join(below, image), ""),
    texts=plain or rewritten,
    rewritten=rewritten,
  )
  size = annotations.image_size_of(entry)
  return UnfilteredRecord(record, size, _ratio(entry.get("ratio")))


def _ratio(value: Any) -> float | None:
  """A quotient of sides, or None if it is not a positive number."""
  try:
    ratio = float(value)
  except (TypeError, ValueError, OverflowError):
    return None
  return ratio if math.isfinite(ratio) and ratio > 0 else None


def _coco(
  body: Mapping[str, Any], keys: ListKeys
) -> Iterator[Entry | TextError]:
  """COCO's images with all of their captions.

  Raises:
    ValueError: the annotations hold no captions.
  """
  captions = collections.defaultdict(list)
  for note in body["annotations"]:
    image_id = note.get("image_id") if isinstance(note, dict) else None
    if not isinstance(image_id, int | str):
      yield TextError("bad_json", "an annotation without the id of an image")
    elif "caption" not in note:
      raise ValueError(
        f"its annotations have {', '.join(note)} and no 'caption': give COCO's "
        "captions_*.json"
      )
    else:
      captions[str(image_id)].append(note["caption"])
  for image in body["images"]:
    if not isinstance(image, dict):
      yield TextError("bad_json", "an image that is no object")
      continue
    yield image | {
      keys.image: image.get("file_name"),
      keys.caption: captions.pop(str(image.get("id")), None),
    }
  for image_id in captions:
    yield TextError("no_image", f"image {image_id} is not listed")
