"""MetricWriter: scalars and images to JSON lines, TensorBoard and PNG files."""

import collections
import contextlib
import errno
import io
import json
import logging
import math
import os
import pathlib
import re
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from ddit_jax.files import read_regular, replace_file
from ddit_jax.json_files import write_lines
from ddit_jax.monitor.image_grid import pillow_image
from ddit_jax.monitor.tensorboard import EventFile

_log = logging.getLogger(__name__)

_SCALARS = "scalars.jsonl"
_BOARD = "tensorboard"
_RESERVED = ("step", "time")
_LARGEST_NUMBER = 2**63
_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)*", re.ASCII)


def read_scalars(path: str | os.PathLike) -> list[dict[str, Any]]:
  """Reads `scalars.jsonl`; a value that was not finite is None.

  Lines that are not what `MetricWriter` writes are left out, with a warning; so
  is a half line that a killed process left at the end.

  Raises:
    OSError: the file cannot be read.
  """
  sound, _ = _sound_lines(path)
  return sound


def _sound_lines(path: str | os.PathLike) -> tuple[list[dict[str, Any]], bool]:
  """The sound lines, and whether they are all."""
  path = pathlib.Path(path)
  if not path.is_file():  # Reading a pipe would wait for its writer.
    raise OSError(errno.EINVAL, "not a file", str(path))
  lines = read_regular(path).split(b"\n")
  # What follows the last newline was cut off while it was written.
  if half := lines.pop():
    _log.warning("%s: ignoring a half-written last line", path)
  parsed = [_parse(line) for line in lines]
  broken = [n for n, values in enumerate(parsed, 1) if values is None]
  if broken:
    _log.warning(
      "%s: %d of %d lines are not scalars of a step and are left out; the "
      "first is line %d",
      *(path, len(broken), len(parsed), broken[0]),
    )
  sound = [values for values in parsed if values is not None]
  return sound, not (broken or half)


class MetricWriter:
  """Writes a run's scalars and images to one folder; a context manager.

  It writes `scalars.jsonl` (one line a call), `tensorboard/` and
  `images/<name>/<step>.png`. What cannot be written, on a full disk for
  instance, is reported, counted and left out; training continues.

  Args:
    folder: of the run; created if absent. None writes nothing, as on all
      processes but the first.

  Attributes:
    non_finite_counts: name -> how many of its values were NaN or infinite.
      They are null in `scalars.jsonl` and unchanged in TensorBoard.
    failed_counts: file -> how many writes to it failed.
  """

  def __init__(self, folder: pathlib.Path | None):
    self.non_finite_counts: dict[str, int] = {}
    self.failed_counts: collections.Counter[str] = collections.Counter()
    self._folder = folder
    if folder is not None:
      self._open_scalars(None)
      self._open_board()

  def __enter__(self) -> "MetricWriter":
    return self

  def __exit__(self, *_: object) -> None:
    self.close()

  def write_scalars(self, step: int, scalars: dict[str, float]) -> None:
    """Writes one line of `scalars.jsonl` and the TensorBoard scalars.

    Args:
      step: not smaller than the step before.
      scalars: name -> number, e.g. {"loss/total": 0.5}; array scalars are
        fetched from their device.

    Raises:
      ValueError: a name that is reserved or not path-like, a value that is not
        one number, or a step before the last one.
    """
    if self._folder is None:
      return
    if self._last_step is not None and step < self._last_step:
      raise ValueError(
        f"step {step} comes after step {self._last_step} in {self._folder}: "
        "call truncate_after(restored step) when a run resumes"
      )
    now = time.time()
    values = {name: _number(name, x) for name, x in scalars.items()}
    finite = {n: x if math.isfinite(x) else None for n, x in values.items()}
    line = {"step": step, "time": now} | finite
    with self._reporting(_SCALARS):
      _append(self._file, json.dumps(line, allow_nan=False).encode() + b"\n")
    self._last_step = step
    for name, value in values.items():
      if not math.isfinite(value):
        self._count_non_finite(step, name, value)
    with self._reporting(_BOARD):
      self._board.add_scalars(step, values, now)

  def write_images(self, step: int, images: dict[str, np.ndarray]) -> None:
    """Writes `images/<name>/<step>.png` and the TensorBoard images.

    Args:
      step: the training step.
      images: name -> uint8 [height, width, 1 or 3 channels].

    Raises:
      ValueError: a bad name, or an array of another kind.
    """
    if self._folder is None:
      return
    for name, image in images.items():
      _check_name(name)
      picture = pillow_image(image, name)
      path = self._folder / "images" / name / f"{step:08d}.png"
      encoded = io.BytesIO()
      picture.save(encoded, "PNG")
      with self._reporting("images"):
        self._folder.stat()  # Not made anew if it was removed.
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, encoded.getvalue(), survives_power_loss=False)
      with self._reporting(_BOARD):
        self._board.add_image(step, name, image)

  def truncate_after(self, step: int) -> None:
    """Drops values that an earlier run wrote after the restored step.

    TensorBoard hides its events after the step; images are overwritten when
    their step comes again.

    Args:
      step: the restored step; its own lines stay.
    """
    if self._folder is None:
      return
    self._close_files()
    self._open_scalars(step)
    self._open_board(purge_step=step + 1)

  def close(self) -> None:
    """Closes all files; logs what was not finite and what was not written."""
    if self._folder is None:
      return
    self._close_files()
    if self.non_finite_counts:
      _log.warning("values that were not finite: %s", self.non_finite_counts)
    if self.failed_counts:
      _log.warning("writes that failed: %s", dict(self.failed_counts))

  def _close_files(self) -> None:
    for file in (self._file, self._board):
      with contextlib.suppress(OSError):
        file.close()

  def _open_scalars(self, last_step: int | None) -> None:
    """Opens `scalars.jsonl` for appending; drops lines after `last_step`."""
    self._file, self._last_step = _Unwritable(), None
    path = self._folder / _SCALARS
    with self._reporting(_SCALARS):
      self._folder.mkdir(parents=True, exist_ok=True)
      lines, is_sound = _sound_lines(path) if path.exists() else ([], True)
      kept = [x for x in lines if last_step is None or x["step"] <= last_step]
      if num_dropped := len(lines) - len(kept):
        _log.warning(
          "%s: dropped %d lines after the restored step %d",
          *(_SCALARS, num_dropped, last_step),
        )
      if num_dropped or not is_sound:
        write_lines(path, kept)
      self._file = open(path, "ab", buffering=0)
      self._last_step = max((line["step"] for line in kept), default=None)

  def _open_board(self, **options: Any) -> None:
    self._board = _Unwritable()
    with self._reporting(_BOARD):
      self._board = EventFile(self._folder / _BOARD, **options)

  @contextlib.contextmanager
  def _reporting(self, name: str) -> Iterator[None]:
    """A write that is reported and counted when it fails."""
    try:
      yield
    except OSError as error:
      if name not in self.failed_counts:
        _log.warning(
          "%s cannot be written (%s): training continues without what fails",
          *(self._folder / name, error.strerror),
        )
      self.failed_counts[name] += 1
      if name == _BOARD:
        # What follows half an event could not be read.
        self._board = _Unwritable()

  def _count_non_finite(self, step: int, name: str, value: float) -> None:
    if name not in self.non_finite_counts:
      _log.warning("%s is %s at step %d", name, value, step)
    self.non_finite_counts[name] = self.non_finite_counts.get(name, 0) + 1


class _Unwritable:
  """In place of a file that could not be opened."""

  def __getattr__(self, name: str) -> Any:
    raise OSError(errno.EBADF, "it could not be opened")


def _append(file: io.RawIOBase, line: bytes) -> None:
  """Appends a whole line or nothing."""
  num_written, end = 0, file.seek(0, os.SEEK_END)
  try:
    num_written = file.write(line)
  finally:
    if num_written < len(line):
      file.truncate(end)
  if num_written < len(line):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _parse(line: bytes) -> dict[str, Any] | None:
  """The values of a line; None if it is not a line of `MetricWriter`."""
  try:
    values = json.loads(line)
  except (ValueError, RecursionError):
    return None
  if not isinstance(values, dict) or type(values.get("step")) is not int:
    return None
  is_sound = all(x is None or _is_number(x) for x in values.values())
  return values if is_sound else None


def _is_number(value: Any) -> bool:
  return type(value) in (int, float) and abs(value) < _LARGEST_NUMBER


def _number(name: str, value: Any) -> float:
  _check_name(name)
  if np.ndim(value) != 0:
    raise ValueError(f"{name} has shape {np.shape(value)}: pass one number")
  return float(value)


def _check_name(name: str) -> None:
  if name in _RESERVED or not _NAME.fullmatch(name):
    raise ValueError(
      f"name {name!r} is reserved or not path-like, such as loss/image"
    )
