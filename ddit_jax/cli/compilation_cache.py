"""Compiled programs on disk, so that a second start need not compile."""

import argparse
import contextlib
import hashlib
import logging
import os
import pathlib
import platform

from ddit_jax.cli.flags import Flag
from ddit_jax.errors import InputError
from ddit_jax.files import local_path

_OFF = "off"
_log = logging.getLogger(__name__)

FLAGS = {
  "compilation_cache": Flag(
    f"folder of compiled programs, or {_OFF}; $JAX_COMPILATION_CACHE_DIR if "
    "unset, else ddit_jax in the user's cache folder"
  ),
}


def use(values: argparse.Namespace) -> None:
  """Makes JAX keep what it compiles; called after `cluster.join`.

  Raises:
    InputError: the folder that was named cannot be written.
  """
  import jax

  given = values.compilation_cache
  if given in ("", _OFF):
    jax.config.update("jax_enable_compilation_cache", False)
  elif given is not None:
    folder = local_path(given, what="--compilation_cache")
    try:
      _keep_in(folder)
    except OSError as error:
      raise InputError(
        f"--compilation_cache={given} cannot be written ({error.strerror}): "
        f"choose another folder, or {_OFF}"
      ) from error
  elif jax.config.jax_compilation_cache_dir is None:
    # XLA takes Intel's tuning flags for features and refuses its own programs
    # with a page of warnings each (openxla/xla#44565).
    if "GenuineIntel" in _processor() and jax.default_backend() == "cpu":
      return
    try:
      _keep_in(_user_folder())
    except OSError as error:
      _log.info("compiled programs are not kept: %s", error)


def _keep_in(folder: pathlib.Path) -> None:
  import jax

  # JAX makes the folder when it compiles; a refused call leaves none behind.
  held = _existing(folder)
  if not held.is_dir():
    raise NotADirectoryError(20, os.strerror(20), str(held))
  if not os.access(held, os.W_OK):
    raise PermissionError(13, os.strerror(13), str(held))
  jax.config.update("jax_compilation_cache_dir", str(folder))


def _existing(folder: pathlib.Path) -> pathlib.Path:
  """The nearest of a folder and those above it that is there."""
  for path in (folder, *folder.parents):
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
      path.stat()
      return path
  return pathlib.Path()


def _user_folder() -> pathlib.Path:
  """One for each kind of processor, which JAX's keys do not tell apart."""
  home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
  kind = hashlib.sha256(_processor().encode()).hexdigest()[:12]
  return pathlib.Path(home, "ddit_jax", f"compiled-{kind}")


def _processor() -> str:
  """What differs between processors that run different instructions."""
  try:
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
  except OSError:
    return f"{platform.machine()} {platform.processor()}"
  names = ("vendor_id", "flags", "Features")
  return "\n".join(sorted({line for line in lines if line.startswith(names)}))
