"""Images in folders, with captions in files beside them."""

import logging
import os
import pathlib
import unicodedata

from ddit_jax.data.example import BadRecord
from ddit_jax.data.sources import annotations
from ddit_jax.data.sources.annotations import TextError
from ddit_jax.data.sources.image_lists import (
  METADATA_NAMES,
  ListKeys,
  UnfilteredRecord,
  UnfilteredRecords,
  listed,
)
from ddit_jax.data.sources.image_table import FileRecord
from ddit_jax.data.sources.paths import SafeFolder, is_hidden

_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".webp")
_OTHER_SUFFIXES = (".gif", ".bmp", ".tif", ".tiff", ".heic", ".avif")

_log = logging.getLogger(__name__)


def side_by_side(
  folder: SafeFolder, keys: ListKeys, *, needs_captions: bool
) -> UnfilteredRecords:
  """Images and texts of the same name, folder by folder in sorted order.

  A folder that holds one of `METADATA_NAMES` and no such texts is read through
  that list. Hidden files and folders are passed over; images among them are
  counted.

  Args:
    folder: of all images.
    keys: of the records of such a list.
    needs_captions: False also takes images without a text.
  """
  walked = {folder.path}
  for place, folders, names in os.walk(folder.path, followlinks=True):
    yield from ["hidden"] * _num_hidden_images(place, folders, names)
    num_links = _choose_folders(folder, place, folders, walked)
    yield from ["linked_folder"] * num_links
    below = os.path.relpath(place, folder.path)
    below = "" if below == os.curdir else below
    texts, images = _paired(names)
    has_texts = any(stem in texts for stem, _ in images)
    if metadata := [name for name in METADATA_NAMES if name in names]:
      file = pathlib.Path(place, metadata[0])
      if has_texts:
        _log.warning("%s is not read: images have texts beside them", file)
      else:
        # Its paths may lead into subfolders.
        folders.clear()
        yield from _listed_inside(folder, file, keys, needs_captions, below)
        continue
    for stem, name in images:
      image = os.path.join(below, name)
      if not name.lower().endswith(_IMAGE_SUFFIXES):
        yield "other_format"
      elif stem in texts:
        yield _with_text(folder, image, os.path.join(below, texts[stem]))
      elif needs_captions:
        yield "no_text"
      else:
        yield UnfilteredRecord(FileRecord(image, image, "", ()), None, None)
    yield from ["no_image"] * len(set(texts) - {stem for stem, _ in images})


def _listed_inside(
  folder: SafeFolder,
  file: pathlib.Path,
  keys: ListKeys,
  needs_captions: bool,
  below: str,
) -> UnfilteredRecords:
  """`listed`, unless the list is a link out of the folder, or a pipe."""
  try:
    folder.check(os.path.join(below, file.name))
  except BadRecord as error:
    yield error
  else:
    yield from listed(file, keys, needs_captions=needs_captions, below=below)


def _paired(names: list[str]) -> tuple[dict[str, str], list[tuple[str, str]]]:
  """(texts by stem, stem and name of each image), of any format.

  Stems are in Unicode's form NFC: archives mix the forms of names.
  """
  texts, images = {}, []
  for name in sorted(names):
    stem, suffix = os.path.splitext(name)
    stem = unicodedata.normalize("NFC", stem)
    if suffix.lower() == ".txt":
      texts.setdefault(stem, name)
    elif suffix.lower() in _IMAGE_SUFFIXES + _OTHER_SUFFIXES:
      images.append((stem, name))
  return texts, images


def _num_hidden_images(place: str, folders: list[str], names: list[str]) -> int:
  """Takes hidden entries out of both lists; how many images they hold."""
  hidden = list(filter(is_hidden, names))
  for folder in filter(is_hidden, folders):
    for _, _, inside in os.walk(os.path.join(place, folder)):
      hidden += inside
  for entries in (folders, names):
    entries[:] = [name for name in entries if not is_hidden(name)]
  return sum(name.lower().endswith(_IMAGE_SUFFIXES) for name in hidden)


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


def _with_text(
  folder: SafeFolder, image: str, text: str
) -> UnfilteredRecord | BadRecord:
  try:
    caption = annotations.text_of_bytes(folder.read(text, image))
  except TextError as error:
    return BadRecord(error.reason, str(error), text)
  except BadRecord as error:
    return error
  texts = (caption,) if caption else ()
  return UnfilteredRecord(FileRecord(image, image, "", texts), None, None)
