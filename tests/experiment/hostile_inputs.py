"""What a hostile or broken input is, and what must become of it."""

import dataclasses
import json
import pathlib
from collections.abc import Callable

from tests.data import pictures

ANY_SIZE = {"min_short_side": 0, "max_ratio": 0.0}
SOUND = {"image_path": "sound.png", "caption": "a red square"}

REPLACED, LEFT_OUT, REFUSED, USED = "replaced", "left out", "refused", "used"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hostile:
  """One input, in a source of its own beside one sound record.

  Attributes:
    name: what is wrong with it.
    outcome: "replaced" by another record when it is read, "left out" when the
      source is opened, "refused" with the whole source, or "used": harmless.
    reason: counted with a record, or part of the message; "" for "used".
    write: makes its files in a folder, and gives the source's spec.
    spoil: done to the folder after the source was opened.
  """

  name: str
  outcome: str
  reason: str = ""
  write: Callable[[pathlib.Path], dict]
  spoil: Callable[[pathlib.Path], None] | None = None


def listed(folder: pathlib.Path, *lines: dict | bytes, **options) -> dict:
  """A list of the sound picture and of these entries or raw lines."""
  (folder / "sound.png").write_bytes(pictures.PNG)
  raw = [
    line if isinstance(line, bytes) else json.dumps(line).encode()
    for line in (SOUND, *lines)
  ]
  path = folder / "list.jsonl"
  path.write_bytes(b"\n".join(raw) + b"\n")
  spec = {"kind": "image_folder", "path": str(path), "filters": ANY_SIZE}
  return spec | options


def hostile_entry(
  name: str, outcome: str, reason: str, line: dict | bytes, **options
) -> Hostile:
  """A list with one hostile entry or line."""
  return Hostile(
    name=name,
    outcome=outcome,
    reason=reason,
    write=lambda folder: listed(folder, line, **options),
  )
