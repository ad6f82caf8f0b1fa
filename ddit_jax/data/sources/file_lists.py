"""From the path that a config names to a list of files."""

import collections
import glob
import itertools
import os
import pathlib
import re
import stat
from collections.abc import Sequence

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_MAX_FILES = 10_000_000

PathSpec = str | os.PathLike | Sequence


def list_files(
  path: PathSpec, *, suffixes: Sequence[str]
) -> list[pathlib.Path]:
  """Files in order, each once.

  Args:
    path: a file, a pattern ("train-*.tar"), a range ("train-{000..127}.tar"),
      a folder, whose files with these suffixes are taken, or a list of such.
    suffixes: e.g. (".tar",).

  Raises:
    ValueError: a name has no file, or a file is there twice.
  """
  if isinstance(path, str | os.PathLike):
    path = [path]
  if not isinstance(path, Sequence) or not path:
    raise ValueError(f"path must be a file, pattern or list, not {path!r}")
  found: list[str] = []
  for one in path:
    if not isinstance(one, str | os.PathLike):
      raise ValueError(f"path must be a file, pattern or list, not {one!r}")
    for name in _ranges(os.path.expanduser(os.fspath(one))):
      found += _files(name, suffixes)
  files = [pathlib.Path(os.path.abspath(name)) for name in found]
  repeated = len(files) - len(set(files))
  if repeated:
    twice = next(p for p, n in collections.Counter(files).items() if n > 1)
    raise ValueError(f"{repeated} files are listed twice, first {twice}")
  return files


def regular_file_status(path: pathlib.Path) -> os.stat_result:
  """Size and times of a file, before it is opened.

  Raises:
    ValueError: it is a pipe, whose opening would wait for its writer, a device
      or a folder; or it cannot be looked at.
  """
  try:
    status = path.stat()
  except OSError as error:
    raise ValueError(f"{path}: {error.strerror}") from error
  if not stat.S_ISREG(status.st_mode):
    raise ValueError(f"{path} is no regular file: leave it out of the path")
  return status


def shared_folder(files: Sequence[pathlib.Path]) -> pathlib.Path:
  """The deepest folder that holds all files."""
  return pathlib.Path(os.path.commonpath([file.parent for file in files]))


def existing_file(path: str | os.PathLike, *, what: str) -> pathlib.Path:
  """A file that a config names; `what` is its key.

  Raises:
    ValueError: it is not there, or no file.
  """
  if not isinstance(path, str | os.PathLike):
    raise ValueError(f"{what} must be a file, not {path!r}")
  file = pathlib.Path(path).expanduser()
  if not file.is_file():
    state = "is no regular file" if file.exists() else "does not exist"
    if file.is_dir():
      state = "is a folder"
    raise ValueError(f"{what} must be a file, but {file} {state}")
  return file


def existing_folder(path: str | os.PathLike, *, what: str) -> pathlib.Path:
  """A folder that a config names; `what` is its key.

  Raises:
    ValueError: it is not there, or no folder.
  """
  if not isinstance(path, str | os.PathLike):
    raise ValueError(f"{what} must be a folder, not {path!r}")
  folder = pathlib.Path(path).expanduser()
  if not folder.is_dir():
    state = "is a file" if folder.is_file() else "does not exist"
    raise ValueError(f"{what} must be a folder, but {folder} {state}")
  return folder


def _ranges(name: str) -> list[str]:
  """All names of a pattern with {000..127}, zeros as written."""
  pieces = _RANGE.split(name)
  choices, total = [], 1
  for first, last in zip(pieces[1::3], pieces[2::3], strict=True):
    if int(last) < int(first):
      raise ValueError(f"the range {{{first}..{last}}} of {name} is empty")
    total *= int(last) - int(first) + 1
    if total > _MAX_FILES:
      raise ValueError(f"{name} stands for more than {_MAX_FILES} files")
    numbers = range(int(first), int(last) + 1)
    choices.append([f"{number:0{len(first)}}" for number in numbers])
  texts = pieces[0::3]
  return [
    texts[0] + "".join(n + t for n, t in zip(some, texts[1:], strict=True))
    for some in itertools.product(*choices)
  ]


def _files(name: str, suffixes: Sequence[str]) -> list[str]:
  if os.path.isdir(name):
    inside = sorted(os.scandir(name), key=lambda entry: entry.name)
    found = [
      entry.path
      for entry in inside
      if entry.name.lower().endswith(tuple(suffixes)) and entry.is_file()
    ]
    problem = f"is a folder without {' or '.join(suffixes)} files"
  elif os.path.exists(name):
    return [name]
  else:
    found = sorted(glob.glob(name))
    problem = "is no file, no folder and no pattern that fits a file"
  if not found:
    raise ValueError(f"path {name} {problem}")
  return found
