"""Untrusted files and folders that a config names."""

import collections
import glob
import hashlib
import itertools
import logging
import os
import pathlib
import re
import stat
import threading
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, NamedTuple

from ddit_jax.data.example import BadRecord
from ddit_jax.data.image_header import (
  HeaderError,
  ImageSize,
  image_size_of_file,
)
from ddit_jax.errors import first_few
from ddit_jax.files import is_unsafe, local_path

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_MAX_FILES = 10_000_000

_log = logging.getLogger(__name__)

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
    ValueError: a name matches no file, or a file is listed twice.
  """
  if isinstance(path, str | os.PathLike):
    path = [path]
  if not isinstance(path, Sequence) or not path:
    raise ValueError(f"path must be a file, pattern or list, not {path!r}")
  found: list[str] = []
  for one in path:
    if not isinstance(one, str | os.PathLike):
      raise ValueError(f"path must be a file, pattern or list, not {one!r}")
    local_path(one, what="path")
    for name in _ranges(os.path.expanduser(os.fspath(one))):
      found += _files(name, suffixes)
  files = [local_path(name) for name in found]
  repeated = len(files) - len(set(files))
  if repeated:
    twice = next(p for p, n in collections.Counter(files).items() if n > 1)
    raise ValueError(f"{repeated} files are listed twice, first {twice}")
  return files


class FileFacts(NamedTuple):
  """A file when it was indexed.

  Attributes:
    name: of the file, or its path below a folder.
    num_bytes: its size.
    mtime_ns: when it was last changed.
  """

  name: str
  num_bytes: int
  mtime_ns: int


def file_facts(path: pathlib.Path, name: str | None = None) -> FileFacts:
  """Size and time of a file before it is opened; `name` defaults to its own.

  Raises:
    ValueError: it is a pipe, whose opening would wait for its writer, a device
      or a folder; or it cannot be accessed.
  """
  try:
    status = path.stat()
  except OSError as error:
    raise ValueError(f"{path}: {error.strerror}") from error
  if not stat.S_ISREG(status.st_mode):
    raise ValueError(f"{path} is not a regular file: take it out of the path")
  return FileFacts(name or path.name, status.st_size, status.st_mtime_ns)


def files_fingerprint(description: str, files: Iterable[FileFacts]) -> str:
  """Hex digest of files' names, sizes and times, and of how they are read."""
  digest = hashlib.blake2b(description.encode(), digest_size=16)
  for file in files:
    line = f"{file.name} {file.num_bytes} {file.mtime_ns}\n"
    digest.update(line.encode(errors="surrogateescape"))
  return digest.hexdigest()


def shared_folder(files: Sequence[pathlib.Path]) -> pathlib.Path:
  """The deepest folder that holds all files."""
  return pathlib.Path(os.path.commonpath([file.parent for file in files]))


def existing_file(path: str | os.PathLike, *, what: str) -> pathlib.Path:
  """A file that a config names; `what` is its key.

  Raises:
    ValueError: it does not exist, or is not a file.
  """
  return _existing(path, what, "a file", pathlib.Path.is_file)


def existing_folder(path: str | os.PathLike, *, what: str) -> pathlib.Path:
  """A folder that a config names; `what` is its key.

  Raises:
    ValueError: it does not exist, or is not a folder.
  """
  return _existing(path, what, "a folder", pathlib.Path.is_dir)


def _existing(
  path: Any, what: str, kind: str, is_right: Callable[[pathlib.Path], bool]
) -> pathlib.Path:
  if not isinstance(path, str | os.PathLike):
    raise ValueError(f"{what} must be {kind}, not {path!r}")
  found = local_path(path, what=what)
  if not is_right(found):
    state = "is not a regular file" if found.exists() else "does not exist"
    state = "is a folder" if found.is_dir() else state
    state = "is a file" if found.is_file() else state
    raise ValueError(f"{what} must be {kind}, but {found} {state}")
  return found


def _ranges(name: str) -> list[str]:
  """All names of a pattern with {000..127}, keeping leading zeros."""
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


# Folders of systems that hold copies and thumbnails.
_SYSTEM_FOLDERS = ("__MACOSX", "@eaDir")


def is_hidden(name: str) -> bool:
  """Whether a file or folder of this name holds no examples.

  Names that begin with a dot belong to systems and editors.
  """
  return name.startswith(".") or name in _SYSTEM_FOLDERS


def _files(name: str, suffixes: Sequence[str]) -> list[str]:
  if os.path.isdir(name):
    inside = sorted(os.scandir(name), key=lambda entry: entry.name)
    found = [
      entry.path
      for entry in inside
      if entry.name.lower().endswith(tuple(suffixes)) and entry.is_file()
    ]
    if hidden := [path for path in found if is_hidden(os.path.basename(path))]:
      _log.warning("hidden files are passed over: %s", first_few(hidden))
      found = [path for path in found if path not in hidden]
    problem = f"is a folder without {' or '.join(suffixes)} files"
  elif os.path.exists(name):
    return [name]
  else:
    found = sorted(glob.glob(name))
    problem = "is not a file, a folder or a pattern that matches a file"
  if not found:
    raise ValueError(f"path {name} {problem}")
  return found


def index_folder(
  beside: pathlib.Path, wanted: str | os.PathLike | None, *, cache: str
) -> pathlib.Path:
  """A folder that can be written; created if it does not exist.

  Args:
    beside: the folder of the indexed files, used if it is writable.
    wanted: the folder in the config; None chooses.
    cache: name below ~/.cache/ddit_jax (or $XDG_CACHE_HOME/ddit_jax), where
      indexes go whose own folder cannot be written.

  Raises:
    ValueError: `wanted` is not a path.
    OSError: it cannot be created.
  """
  if wanted is not None and not isinstance(wanted, str | os.PathLike):
    raise ValueError(f"index_folder must be a folder, not {wanted!r}")
  if wanted is not None:
    chosen = local_path(wanted, what="index_folder")
  elif os.access(beside, os.W_OK):
    return beside
  else:
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    chosen = pathlib.Path(home).expanduser() / "ddit_jax" / cache
  chosen.mkdir(parents=True, exist_ok=True)
  return chosen


class LruCache:
  """An LRU cache that computes each value once for all threads.

  `functools.lru_cache` would compute it once in every waiting thread: all
  threads that read in order would decode each row group. Pickles as an empty
  cache.
  """

  def __init__(self, make: Callable[[Hashable], Any], *, capacity: int):
    """Takes the function that makes a key's value, and the capacity."""
    self._make, self._capacity = make, capacity
    self._lock = threading.Lock()
    self._slots: collections.OrderedDict = collections.OrderedDict()

  def __getstate__(self) -> dict[str, Any]:
    return {"make": self._make, "capacity": self._capacity}

  def __setstate__(self, state: dict[str, Any]) -> None:
    self.__init__(**state)

  def __getitem__(self, key: Hashable) -> Any:
    """The key's value; errors of `make` are not cached."""
    with self._lock:
      # A lock and, once it is made, the value.
      slot = self._slots.setdefault(key, [threading.Lock()])
      self._slots.move_to_end(key)
      while len(self._slots) > self._capacity:
        self._slots.popitem(last=False)
    # Threads that want other keys are not blocked while this one is computed.
    with slot[0]:
      if len(slot) == 1:
        slot.append(self._make(key))
      return slot[1]


_MAX_OPEN = 128


class ChangedFile(ValueError):
  """A file that has changed since it was indexed."""


def reason_of(error: Exception, *, changed: str) -> str:
  """The reason of a `BadRecord` for a read error.

  Args:
    error: a `TextError`, a `ChangedFile` or an `OSError`.
    changed: the reason for a `ChangedFile`.
  """
  if isinstance(error, ChangedFile):
    return changed
  if isinstance(error, FileNotFoundError):
    return "missing_file"
  return getattr(error, "reason", "unreadable_file")


class OpenFile:
  """A file descriptor that is closed when the object is garbage collected."""

  def __init__(self, path: str | os.PathLike, num_bytes: int):
    """Opens a file that must have this size.

    Raises:
      ChangedFile: it has another size.
      OSError: it cannot be opened.
    """
    self._descriptor = None
    self._descriptor = os.open(path, os.O_RDONLY)
    size = os.fstat(self._descriptor).st_size
    if size != num_bytes:
      raise ChangedFile(f"{path} has {size} bytes, its index says {num_bytes}")

  def __del__(self):
    if self._descriptor is not None:
      os.close(self._descriptor)

  def read(self, offset: int, count: int) -> bytes:
    """`count` bytes; raises ChangedFile if the file ends early."""
    data = os.pread(self._descriptor, count, offset)
    if len(data) < count:
      raise ChangedFile(f"cut off: {len(data)} of {count} bytes at {offset}")
    return data


class OpenFiles:
  """The files of one source, of which the most recent stay open."""

  def __init__(self, paths: Sequence[pathlib.Path], files: Sequence[FileFacts]):
    """Opens nothing yet; the sizes are those of the index."""
    self._paths, self._num_bytes = paths, [file.num_bytes for file in files]
    # An evicted file is closed when the last thread reading it is done.
    self._files = LruCache(self._opened, capacity=_MAX_OPEN)

  def __getitem__(self, number: int) -> OpenFile:
    """The file of this number; raises ChangedFile and OSError."""
    return self._files[number]

  def _opened(self, number: int) -> OpenFile:
    return OpenFile(self._paths[number], self._num_bytes[number])


# Far above any image that decodes to the pixels Pillow allows.
MAX_IMAGE_BYTES = 2**28


def images_folder(
  path: str | os.PathLike, *, follow_links: bool
) -> "SafeFolder":
  """The folder that a source's key `images` names.

  Raises:
    ValueError: it is not an existing folder, or follow_links is not a bool.
  """
  return SafeFolder(
    existing_folder(path, what="images"), follow_links=follow_links
  )


class SafeFolder:
  """A folder outside of which nothing is read, links included.

  Attributes:
    path: with all links resolved.
    follow_links: True reads what links inside the folder point to, wherever
      that is.
  """

  def __init__(self, path: str | os.PathLike, *, follow_links: bool = False):
    """The folder itself may be a link.

    Raises:
      ValueError: follow_links is not a bool.
    """
    if not isinstance(follow_links, bool):
      raise ValueError(f"follow_links is True or False, not {follow_links!r}")
    self.path = os.path.realpath(path)
    self.follow_links = follow_links
    self._inside = os.path.join(self.path, "")

  def holds(self, real: str) -> bool:
    """Whether a path without links is below the folder."""
    return real.startswith(self._inside)

  def read(self, path: str, record_id: str) -> bytes:
    """A whole file.

    Raises:
      BadRecord: unsafe_path, missing_file, unreadable_file, or
        image_too_large (over `MAX_IMAGE_BYTES`).
    """
    descriptor = self._open(path, record_id)
    try:
      with os.fdopen(descriptor, "rb") as file:
        size = os.fstat(descriptor).st_size
        if size > MAX_IMAGE_BYTES:
          raise BadRecord(
            "image_too_large", f"{path} has {size} bytes", record_id
          )
        return file.read(MAX_IMAGE_BYTES)
    except OSError as error:
      raise BadRecord("unreadable_file", str(error), record_id) from error

  def check(self, path: str) -> None:
    """Raises BadRecord, as `read`, unless a file may be read."""
    os.close(self._open(path, path))

  def image_size(self, path: str, record_id: str) -> ImageSize:
    """Size of an image from its header.

    Raises:
      BadRecord: as `read`, and not_an_image or truncated_image.
    """
    descriptor = self._open(path, record_id)
    try:
      return image_size_of_file(descriptor)
    except HeaderError as error:
      raise BadRecord(error.reason, f"{path}: {error}", record_id) from error
    except OSError as error:
      raise BadRecord("unreadable_file", str(error), record_id) from error
    finally:
      os.close(descriptor)

  def _open(self, path: str, record_id: str) -> int:
    """A descriptor of a regular file that may be read."""
    if is_unsafe(path):
      detail = f"{path!r} is not a path below the folder"
      raise BadRecord("unsafe_path", detail, record_id)
    try:
      real = os.path.realpath(self._inside + path, strict=True)
      if not (self.follow_links or self.holds(real)):
        detail = (
          f"{path!r} is a link out of {self.path}, which follow_links allows"
        )
        raise BadRecord("unsafe_path", detail, record_id)
      # Opening a pipe would wait for its writer.
      descriptor = os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except (FileNotFoundError, NotADirectoryError) as error:
      detail = f"{path} is not in {self.path}"
      raise BadRecord("missing_file", detail, record_id) from error
    except OSError as error:
      raise BadRecord("unreadable_file", str(error), record_id) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
      os.close(descriptor)
      raise BadRecord("unreadable_file", f"{path} is not a file", record_id)
    return descriptor
