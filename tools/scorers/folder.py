"""A folder of cases: which files were read."""

import dataclasses
import pathlib
from typing import Any

from ddit_jax.scoring import records


@dataclasses.dataclass
class Folder:
  """One folder of cases.

  Attributes:
    path: of the folder.
    used: the files that were asked for.
  """

  path: pathlib.Path
  used: set[pathlib.Path] = dataclasses.field(default_factory=set)

  def one(self, pattern: str, *, but: str = "") -> pathlib.Path:
    """The only file of a pattern, whose name does not begin with `but`."""
    found = [
      path
      for path in sorted(self.path.glob(pattern))
      if path.is_file() and not (but and path.name.startswith(but))
    ]
    if len(found) != 1:
      raise ValueError(f"{self.path} has {len(found)} files {pattern}, not one")
    self.used.update(found)
    return found[0]

  def all(self, pattern: str) -> list[pathlib.Path]:
    """The files of a pattern, by name; at least one."""
    found = sorted(path for path in self.path.glob(pattern) if path.is_file())
    if not found:
      raise ValueError(f"{self.path} has no file {pattern}")
    self.used.update(found)
    return found

  def has(self, pattern: str) -> bool:
    """Whether there is a file of a pattern."""
    return any(self.path.glob(pattern))

  def json(self, pattern: str) -> Any:
    """The JSON of the only file of a pattern."""
    return records.read_any(self.one(pattern))

  def unused(self) -> list[pathlib.Path]:
    """The files that nothing has asked for."""
    files = {path for path in self.path.rglob("*") if not path.is_dir()}
    return sorted(files - self.used)
