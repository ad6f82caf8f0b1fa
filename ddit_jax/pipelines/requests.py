"""Requests of `ddit sample`, from flags and files, and the images they name."""

import collections
import contextlib
import logging
import pathlib
from collections.abc import Iterator, Mapping

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from ddit_jax.data.example import BadRecord
from ddit_jax.data.image import ImageConfig, ImageTransform, decode_image
from ddit_jax.data.image_header import (
  HeaderError,
  image_size_of_bytes,
  is_animation,
)
from ddit_jax.data.sources.annotations import TextError, read_json_lines
from ddit_jax.data.sources.paths import SafeFolder, file_facts
from ddit_jax.errors import InputError, first_few

_log = logging.getLogger(__name__)

# The keys of a request for each task, and those that it may have.
NEEDED = {
  "t2i": ("prompt",),
  "caption": ("image",),
  "vqa": ("image", "question"),
}
_OPTIONAL = {
  "t2i": ("negative_prompt", "image", "mask_image"),
  "caption": (),
  "vqa": (),
}
# Texts that may be empty: training uses the empty prompt, too.
_MAY_BE_EMPTY = ("prompt", "negative_prompt")


def read(
  task: str, given: Mapping[str, list[str]], inputs: str | None
) -> list[dict[str, str]]:
  """Collects requests from flags and, if given, from a JSONL file.

  One image may have many questions, and one question many images.

  Args:
    task: a key of `NEEDED`.
    given: values of flags by the key of a request.
    inputs: the file, if any.

  Returns:
    For each request, the values of `NEEDED[task]` and of those of
    `_OPTIONAL[task]` that it has.

  Raises:
    InputError: there is no request, a key is missing, or the file is damaged.
  """
  needed, optional = NEEDED[task], _OPTIONAL[task]
  extra = [k for k, v in given.items() if v and k not in (*needed, *optional)]
  if extra:
    raise InputError(f"--task={task} does not take --{extra[0]}")
  rows = _from_flags(needed, optional, given)
  if inputs is not None:
    rows += _from_file(pathlib.Path(inputs), needed, optional)
  if not rows:
    flags = " and ".join(f"--{key}" for key in needed)
    raise InputError(f"nothing to do: give {flags}, or --inputs=FILE.jsonl")
  for row in rows:
    if "mask_image" in row and "image" not in row:
      raise InputError(
        f"{row['mask_image']} needs an image that it keeps: give it"
      )
  return rows


def read_square_image(
  path: str, side: int, crop: str = "centre"
) -> UInt8[np.ndarray, "side side 3"]:
  """An image file as training reads it.

  Args:
    path: of the file.
    side: in pixels.
    crop: "centre" or "pad", see `ImageConfig`.

  Raises:
    InputError: the file does not exist, or training would not take it either.
  """
  with _usable_file(path):
    data = _file_bytes(path)
    config = ImageConfig(image_size=side, crop=crop)
    pixels = ImageTransform(config=config)(
      data, np.random.default_rng(0), record_id=path, may_flip=False
    )
    size = image_size_of_bytes(data)
  _log_animation(path, data)
  if size.height != size.width and crop == "centre":
    _log.info("%s is cropped to its centre square", path)
  return pixels


def open_image(path: str) -> Image.Image:
  """An image file of any size, in RGB; raises InputError."""
  with _usable_file(path):
    data = _file_bytes(path)
    image = decode_image(data, record_id=path)
  _log_animation(path, data)
  return image


@contextlib.contextmanager
def _usable_file(path: str) -> Iterator[None]:
  """Turns errors of reading an image into InputError."""
  try:
    yield
  except BadRecord as error:
    if error.reason == "missing_file":
      raise InputError(f"there is no image file {path}") from error
    raise InputError(
      f"{path} cannot be used: {error.detail} ({error.reason})"
    ) from error
  except HeaderError as error:
    raise InputError(f"{path} cannot be used: {error}") from error


def _file_bytes(path: str) -> bytes:
  file = pathlib.Path(path).expanduser()
  return SafeFolder(file.parent, follow_links=True).read(file.name, path)


def _log_animation(path: str, data: bytes) -> None:
  if is_animation(data):
    _log.info("%s is an animation: its first frame is used", path)


def _from_flags(needed, optional, given) -> list[dict[str, str]]:
  columns = {key: given[key] for key in needed}
  columns |= {key: given[key] for key in optional if given.get(key)}
  counts = {key: len(values) for key, values in columns.items()}
  if not any(counts.values()):
    return []
  if not all(counts.values()):
    missing = next(key for key, count in counts.items() if not count)
    raise InputError(f"--{missing} is missing")
  longest = max(counts.values())
  for key, count in counts.items():
    if count not in (1, longest):
      raise InputError(
        f"{counts} flags do not pair up: repeat --{key} once or {longest} times"
      )
  for key, values in columns.items():
    columns[key] = values * longest if len(values) == 1 else values
  rows = [
    dict(zip(columns, row, strict=True))
    for row in zip(*columns.values(), strict=True)
  ]
  for row in rows:
    _check_row(row, columns, "the command line")
  return rows


def _from_file(path: pathlib.Path, needed, optional) -> list[dict[str, str]]:
  try:
    file_facts(path)
    lines = list(read_json_lines(path))
  except (OSError, ValueError) as error:
    raise InputError(f"--inputs={path} cannot be read: {error}") from error
  rows, unread = [], collections.Counter()
  for number, row in lines:
    where = f"{path} line {number}"
    if isinstance(row, TextError):
      raise InputError(f"{where} is {row}")
    unread.update(row.keys() - {*needed, *optional})
    keys = (*needed, *(key for key in optional if key in row))
    _check_row(row, keys, where)
    rows.append({key: row[key] for key in keys})
  if not rows:
    raise InputError(f"{path} is empty: write one JSON object per line")
  if unread:
    named = [f"{key!r} ({n} times)" for key, n in sorted(unread.items())]
    _log.warning(
      "%s has keys that this task does not read: %s", path, first_few(named)
    )
  return rows


def _check_row(row, keys, where: str) -> None:
  for key in keys:
    value = row.get(key)
    if not isinstance(value, str):
      raise InputError(f"{where} needs a text {key!r}")
    if key not in _MAY_BE_EMPTY and not value.strip():
      raise InputError(f"{where} needs a non-empty text {key!r}")
