"""Where an index is kept that is built once and found again."""

import os
import pathlib


def index_folder(
  beside: pathlib.Path, wanted: str | os.PathLike | None, *, cache: str
) -> pathlib.Path:
  """A folder that can be written; made if it is not there.

  Args:
    beside: the folder of what is indexed, taken if it can be written.
    wanted: what the config asks for; None chooses.
    cache: name below ~/.cache/ddit_jax (or $XDG_CACHE_HOME/ddit_jax), where
      indexes go whose own folder cannot be written.

  Raises:
    ValueError: `wanted` is no path.
    OSError: it cannot be made.
  """
  if wanted is not None and not isinstance(wanted, str | os.PathLike):
    raise ValueError(f"index_folder must be a folder, not {wanted!r}")
  if wanted is not None:
    chosen = pathlib.Path(wanted).expanduser().absolute()
  elif os.access(beside, os.W_OK):
    return beside
  else:
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    chosen = pathlib.Path(home).expanduser() / "ddit_jax" / cache
  chosen.mkdir(parents=True, exist_ok=True)
  return chosen
