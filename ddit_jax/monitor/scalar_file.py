"""scalars.jsonl: one JSON object a line, `{"step", "time", name: value}`."""

import json
import logging
import os
import pathlib
from typing import Any

_log = logging.getLogger(__name__)


def read_scalars(path: str | os.PathLike) -> list[dict[str, Any]]:
  """Reads all lines; a value that was not finite is None.

  A half line that a killed process left at the end is not returned; a log
  line says so.

  Raises:
    ValueError: a broken line that is not the last one.
  """
  lines = pathlib.Path(path).read_bytes().split(b"\n")
  # All that follows the last newline was cut off while it was written.
  if lines.pop():
    _log.warning("%s: ignoring a half-written last line", path)
  return [_parse(path, number, line) for number, line in enumerate(lines, 1)]


class ScalarFile:
  """Appends lines to a file, in the order of their steps."""

  def __init__(self, path: str | os.PathLike):
    """Opens `path`, new or old; a half-written last line is removed."""
    self._path = pathlib.Path(path)
    self._path.parent.mkdir(parents=True, exist_ok=True)
    lines = read_scalars(self._path) if self._path.exists() else []
    self._last_step = max((line["step"] for line in lines), default=None)
    self._rewrite(lines)

  def append(self, step: int, time: float, values: dict[str, Any]) -> None:
    """Writes one line and hands it to the operating system.

    Args:
      step: not smaller than the step before.
      time: seconds since 1970.
      values: name -> finite float or None.

    Raises:
      ValueError: a step before the last one, or a value that is not finite.
    """
    if self._last_step is not None and step < self._last_step:
      raise ValueError(
        f"step {step} comes after step {self._last_step} in {self._path}: "
        "call truncate_after(restored step) when a run resumes"
      )
    line = {"step": step, "time": time} | values
    self._file.write(json.dumps(line, allow_nan=False) + "\n")
    self._file.flush()
    self._last_step = step

  def truncate_after(self, step: int) -> int:
    """Drops all lines beyond `step`; returns how many there were."""
    lines = read_scalars(self._path)
    kept = [line for line in lines if line["step"] <= step]
    self._file.close()
    self._last_step = max((line["step"] for line in kept), default=None)
    self._rewrite(kept)
    return len(lines) - len(kept)

  def close(self) -> None:
    """Closes the file."""
    self._file.close()

  def _rewrite(self, lines: list[dict[str, Any]]) -> None:
    beside = self._path.with_name(self._path.name + ".tmp")
    beside.write_text("".join(json.dumps(line) + "\n" for line in lines))
    os.replace(beside, self._path)
    self._file = open(self._path, "a", encoding="utf-8")


def _parse(path: str | os.PathLike, number: int, line: bytes) -> dict[str, Any]:
  try:
    values = json.loads(line)
  except ValueError as error:
    raise ValueError(f"{path} line {number} is not JSON: {error}") from error
  if not isinstance(values, dict) or type(values.get("step")) is not int:
    raise ValueError(f'{path} line {number} has no integer "step"')
  return values
