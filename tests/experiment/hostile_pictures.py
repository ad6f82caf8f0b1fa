"""Pictures that are damaged, disguised, hidden or out of bounds."""

import io
import os
import pathlib
import zlib

import numpy as np
from PIL import Image

from tests.data import pictures
from tests.experiment.hostile_inputs import (
  LEFT_OUT,
  REPLACED,
  USED,
  Hostile,
  hostile_entry,
  listed,
)

ENTRY = {"image_path": "bad.jpg", "caption": "a blue square"}


def saved(mode: str, kind: str) -> bytes:
  """A small picture of any mode."""
  file = io.BytesIO()
  Image.fromarray(pictures.pixels(40, 30)).convert(mode).save(file, kind)
  return file.getvalue()


def flipped(data: bytes, chunk: bytes) -> bytes:
  """A PNG with one bit wrong in the middle of a chunk."""
  start = data.index(chunk) + 4
  place = start + int.from_bytes(data[start - 8 : start - 4], "big") // 2
  return data[:place] + bytes([data[place] ^ 16]) + data[place + 1 :]


def sixteen_bits() -> bytes:
  file = io.BytesIO()
  values = pictures.pixels(40, 30)[:, :, 0].astype(np.uint16) * 257
  Image.fromarray(values).save(file, "PNG")
  return file.getvalue()


def with_text_bomb() -> bytes:
  """A sound picture with a text of 100 MB that takes 100 kB."""
  text = pictures.chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(10**8), 9))
  return pictures.PNG[:33] + text + pictures.PNG[33:]


FILES = {
  "JPEG cut in half": pictures.HOSTILE["JPEG cut in half"],
  "PNG bomb of 60000 x 60000": pictures.HOSTILE["PNG bomb"],
  "WebP bomb": pictures.HOSTILE["WebP bomb"],
  "PNG with a text bomb": (with_text_bomb(), ""),
  "file of zero bytes": (b"", "not_an_image"),
  "text named .jpg": (b"not a picture", "not_an_image"),
  "GIF named .jpg": pictures.HOSTILE["GIF"],
  "SVG named .jpg": pictures.HOSTILE["a drawing"],
  "BMP named .jpg": pictures.HOSTILE["BMP"],
  "CMYK JPEG cut off": (saved("CMYK", "JPEG")[:-200], "truncated_image"),
  "16-bit PNG, one bit wrong": (
    flipped(sixteen_bits(), b"IDAT"),
    "truncated_image",
  ),
  "palette PNG, palette wrong": (
    flipped(saved("P", "PNG"), b"PLTE"),
    "truncated_image",
  ),
}


def hostile_file(name: str, data: bytes, reason: str) -> Hostile:
  """A file that is no whole picture, or one despite its metadata."""

  def write(folder: pathlib.Path) -> dict:
    (folder / "bad.jpg").write_bytes(data)
    return listed(folder, ENTRY)

  became = REPLACED if reason else USED
  return Hostile(name=name, outcome=became, reason=reason, write=write)


def hostile_place(name: str, reason: str, put, **options) -> Hostile:
  """Something that `put` makes in the place of a file."""

  def write(folder: pathlib.Path) -> dict:
    put(folder / "bad.jpg")
    return listed(folder, ENTRY, **options)

  return Hostile(name=name, outcome=REPLACED, reason=reason, write=write)


def forbidden(path: pathlib.Path) -> None:
  path.write_bytes(pictures.JPEG)
  path.chmod(0)


def outside(path: pathlib.Path) -> None:
  target = path.parent.with_name(f"{path.parent.name}_outside.jpg")
  target.write_bytes(pictures.JPEG)
  path.symlink_to(target)


HOSTILE = [
  *(hostile_file(name, *found) for name, found in FILES.items()),
  hostile_place("missing file", "missing_file", lambda path: None),
  hostile_place("link out of the folder", "unsafe_path", outside),
  hostile_place(
    "link to itself", "unreadable_file", lambda path: path.symlink_to(path)
  ),
  hostile_place(
    "link to /dev/zero, links followed",
    "unreadable_file",
    lambda path: path.symlink_to("/dev/zero"),
    follow_links=True,
  ),
  hostile_place("pipe in place of a file", "unreadable_file", os.mkfifo),
  hostile_place(
    "folder in place of a file", "unreadable_file", lambda path: path.mkdir()
  ),
  hostile_entry(
    "path with ..", LEFT_OUT, "unsafe_path", ENTRY | {"image_path": "../a.jpg"}
  ),
  hostile_entry(
    "absolute path",
    LEFT_OUT,
    "unsafe_path",
    ENTRY | {"image_path": "/etc/passwd"},
  ),
  hostile_entry(
    "path with a NUL byte",
    LEFT_OUT,
    "unsafe_path",
    ENTRY | {"image_path": "a.jpg\0.png"},
  ),
]
# Root may read everything.
if os.geteuid():
  HOSTILE.append(
    hostile_place("file without permission", "unreadable_file", forbidden)
  )
