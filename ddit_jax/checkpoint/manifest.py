"""A folder's manifest: size and BLAKE2b hash of every file below it."""

import concurrent.futures
import contextlib
import os
import pathlib
import threading
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from ddit_jax.files import replace_file
from ddit_jax.json_files import file_hash, json_hash, read_sealed, sealed

MANIFEST_NAME = "manifest.json"
_FORMAT = 1
_DIGEST_BYTES = 32
_MAX_BYTES = 2**28
_NAMED_PROBLEMS = 5


class CheckpointError(ValueError):
  """A checkpoint is damaged, absent, or not the requested one."""


def write_manifest(
  folder: str | os.PathLike, *, extra: dict[str, Any] | None = None
) -> None:
  """Hashes every file below `folder` and writes `manifest.json` into it.

  The manifest appears in one rename, so a killed process leaves none.

  Args:
    folder: an existing folder; a manifest already in it is replaced.
    extra: JSON-able metadata to store; `verify_manifest` returns them.

  Raises:
    CheckpointError: `folder` is not a folder.
  """
  folder = _existing(folder)
  names = _file_names(folder)
  with concurrent.futures.ThreadPoolExecutor() as threads:
    entries = list(threads.map(lambda name: hash_file(folder / name), names))
  body = {
    "format": _FORMAT,
    "files": dict(zip(names, entries, strict=True)),
    "extra": extra or {},
  }
  replace_file(folder / MANIFEST_NAME, sealed(body, indent=1))


def verify_manifest(
  folder: str | os.PathLike,
  *,
  below: str = "",
  share: tuple[int, int] = (0, 1),
) -> dict[str, Any]:
  """Compares every file below `folder` with the manifest.

  Args:
    folder: a folder with a manifest from `write_manifest`.
    below: only look at this sub-folder ("" looks at everything).
    share: (index, count): hash only every count-th file, starting at index,
      so that several processes can divide the work; names and sizes are
      always compared for all files.

  Returns:
    The `extra` facts given to `write_manifest`.

  Raises:
    CheckpointError: no manifest, or files that are missing, added, truncated
      or altered; the line names them.
  """
  folder = _existing(folder)
  body = _read_manifest(folder / MANIFEST_NAME)
  prefix = f"{below}/" if below else ""
  listed = {
    name: entry
    for name, entry in body["files"].items()
    if name.startswith(prefix)
  }
  present = [n for n in _file_names(folder) if n.startswith(prefix)]
  problems = [f"{n} is missing" for n in sorted(listed.keys() - set(present))]
  problems += [f"{n} was added" for n in sorted(set(present) - listed.keys())]
  problems += _wrong_sizes(folder, listed)
  # Hashing takes seconds to minutes; a name or a size already tells enough.
  problems = problems or _altered(folder, listed, share)
  if problems:
    raise CheckpointError(_damage_line(folder, problems))
  return body["extra"]


def listed_files(folder: str | os.PathLike) -> list[str]:
  """Names of the files in a folder's manifest; raises as `verify_manifest`."""
  return list(_read_manifest(_existing(folder) / MANIFEST_NAME)["files"])


def contents_digest(folder: str | os.PathLike, below: str) -> str:
  """One hash of all files in a sub-folder, as the manifest lists them.

  The hash does not change when the folder is moved or copied. Only the manifest
  is read; `verify_manifest` checks the files against it.

  Args:
    folder: a folder with a manifest from `write_manifest`.
    below: the sub-folder, e.g. "network/params".

  Raises:
    CheckpointError: no manifest, or it is damaged or lists no such files.
  """
  folder = _existing(folder)
  prefix = f"{below}/"
  body = _read_manifest(folder / MANIFEST_NAME)
  listed = {
    name.removeprefix(prefix): entry
    for name, entry in body["files"].items()
    if name.startswith(prefix)
  }
  if not listed:
    raise CheckpointError(f"{folder} has no files below {below}")
  return json_hash(listed)


def hash_file(
  path: pathlib.Path, is_over: threading.Event | None = None
) -> dict[str, Any]:
  """Size and hash of a file, as manifests list them.

  Args:
    path: the file.
    is_over: when set, hashing stops.

  Raises:
    CancelledError: `is_over` was set.
  """
  digest = file_hash(path, digest_bytes=_DIGEST_BYTES, is_over=is_over)
  return {"bytes": path.stat().st_size, "blake2b": digest}


def _existing(folder: str | os.PathLike) -> pathlib.Path:
  folder = pathlib.Path(folder)
  if not folder.is_dir():
    raise CheckpointError(f"{folder} is not a folder: check the path")
  return folder


def _file_names(folder: pathlib.Path) -> list[str]:
  """Sorted names, relative to `folder`, of all files but the manifest."""
  names = (
    path.relative_to(folder).as_posix()
    for path in folder.rglob("*")
    if not path.is_dir()
  )
  return sorted(name for name in names if name != MANIFEST_NAME)


def _read_manifest(path: pathlib.Path) -> dict[str, Any]:
  if not path.is_file():
    raise CheckpointError(
      f"{path} is missing: this checkpoint was never finished; use another"
    )
  try:
    body = read_sealed(path, max_bytes=_MAX_BYTES)
  except ValueError as error:
    raise CheckpointError(f"{path} is damaged ({error})") from error
  if body["format"] != _FORMAT:
    raise CheckpointError(
      f"{path} has format {body['format']}, this version reads {_FORMAT}"
    )
  return body


def _wrong_sizes(folder: pathlib.Path, listed: dict[str, Any]) -> list[str]:
  problems = []
  for name, entry in listed.items():
    path = folder / name
    if not path.exists():
      continue  # already reported as missing
    size = path.stat().st_size
    if not path.is_file():
      problems.append(f"{name} is not a file")
    elif size != entry["bytes"]:
      word = "truncated" if size < entry["bytes"] else "longer"
      problems.append(
        f"{name} is {word} ({size} bytes, written were {entry['bytes']})"
      )
  return problems


def _altered(
  folder: pathlib.Path, listed: dict[str, Any], share: tuple[int, int]
) -> list[str]:
  index, count = share
  names = sorted(listed)[index::count]
  with concurrent.futures.ThreadPoolExecutor() as threads:
    reasons = threads.map(
      lambda name: _why_not_the_same(folder / name, listed[name]), names
    )
    return [
      f"{name} {reason}"
      for name, reason in zip(names, reasons, strict=True)
      if reason
    ]


def _why_not_the_same(path: pathlib.Path, entry: dict[str, Any]) -> str:
  try:
    is_same = hash_file(path) == entry
  except OSError as error:
    return f"cannot be read ({error.strerror})"
  return "" if is_same else "is altered (its hash differs)"


def _damage_line(folder: pathlib.Path, problems: list[str]) -> str:
  named = "; ".join(problems[:_NAMED_PROBLEMS])
  more = len(problems) - _NAMED_PROBLEMS
  tail = f"; and {more} more" if more > 0 else ""
  return (
    f"{folder} is damaged: {named}{tail}. "
    "Use another checkpoint, or copy this one again from its source"
  )


def raise_on_all(error: Exception | None, *, doing: str) -> None:
  """Raises on every process when any process has an error.

  Otherwise the healthy processes would wait in the next collective for one that
  has already left. All processes must call it; with a single process it only
  re-raises `error`.

  Args:
    error: what went wrong on this process, or None.
    doing: what was tried, e.g. "verifying step 100"; used in the message.

  Raises:
    Exception: `error` itself, where there is one.
    CheckpointError: another process failed.
  """
  has_failed = np.array([error is not None])
  if jax.process_count() > 1:
    has_failed = multihost_utils.process_allgather(has_failed, tiled=True)
  if error is not None:
    raise error
  if has_failed.any():
    where = np.flatnonzero(has_failed).tolist()
    raise CheckpointError(
      f"{doing} failed on process {where}: the reason is in its own output"
    )


@contextlib.contextmanager
def raising_on_all(doing: str) -> Iterator[None]:
  """A block whose error is raised on every process, see `raise_on_all`."""
  error = None
  try:
    yield
  except Exception as caught:
    error = caught
  raise_on_all(error, doing=doing)
