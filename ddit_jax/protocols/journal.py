"""Outputs of a model, appended batch by batch and never lost or repeated."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from ddit_jax.errors import InputError
from ddit_jax.files import open_regular
from ddit_jax.json_files import parse_json, to_json_lines

_FORMAT = 1


class Journal:
  """A file of JSON lines: what the outputs depend on, then one output a line.

  A batch is one write, and is on the disk when `append` returns. A killed
  process may leave part of a line; opening the file again removes it.

  Attributes:
    outputs: the output of each item's key so far.
  """

  def __init__(self, path: pathlib.Path | None, facts: Mapping[str, Any]):
    """Opens or creates the file.

    Args:
      path: the file, whose folder exists; None keeps outputs in memory alone,
        where another process writes them.
      facts: what the outputs depend on, as JSON has it.

    Raises:
      InputError: the file holds outputs of other facts, or is damaged.
    """
    self._path = path
    header = {"format": _FORMAT, **facts}
    self.outputs: dict[str, Any] = {}
    if path is None:
      return
    lines = self._whole_lines() if path.exists() else []
    if lines:
      self._check_header(lines[0], header)
      for number, line in enumerate(lines[1:], 2):
        self._add(line, f"{path} line {number}")
    else:
      self._write([header])

  def append(self, outputs: Mapping[str, Any]) -> None:
    """Adds the outputs of some keys.

    Raises:
      ValueError: a key has an output.
    """
    if known := self.outputs.keys() & outputs.keys():
      raise ValueError(f"{sorted(known)[0]!r} was sampled twice")
    if self._path is not None:
      self._write([{"key": k, "output": v} for k, v in outputs.items()])
    self.outputs |= outputs

  def _write(self, rows: Sequence[Mapping[str, Any]]) -> None:
    try:
      lines = to_json_lines(rows)
    except ValueError as error:
      raise InputError(
        f"{self._path}: the model's numbers are not finite ({error}): its "
        "weights are damaged, or their training has diverged"
      ) from error
    with open_regular(self._path, "ab") as file:
      file.write(lines)
      file.flush()
      os.fsync(file.fileno())

  def _whole_lines(self) -> list[bytes]:
    with open_regular(self._path, "r+b") as file:
      data = file.read()
      end = data.rfind(b"\n") + 1
      file.truncate(end)
    return data[:end].split(b"\n")[:-1]

  def _check_header(self, line: bytes, header: Mapping[str, Any]) -> None:
    found = _object(line, f"{self._path} line 1")
    for key in sorted(found.keys() | header.keys()):
      if found.get(key) != header.get(key):
        raise InputError(
          f"{self._path} holds outputs of {key} {found.get(key)!r:.200}, this "
          f"run has {header.get(key)!r:.200}: choose another --out"
        )

  def _add(self, line: bytes, where: str) -> None:
    row = _object(line, where)
    key = row.get("key")
    if not isinstance(key, str) or "output" not in row or key in self.outputs:
      raise InputError(f"{where} is damaged: choose another --out")
    self.outputs[key] = row["output"]


def _object(line: bytes, where: str) -> dict[str, Any]:
  try:
    row = parse_json(line)
  except ValueError as error:
    raise InputError(f"{where} is damaged: {error}") from error
  if not isinstance(row, dict):
    raise InputError(f"{where} is damaged: choose another --out")
  return row
