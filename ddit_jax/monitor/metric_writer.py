"""MetricWriter: scalars and images to JSON lines, TensorBoard and PNG files."""

import json
import logging
import math
import os
import pathlib
import re
import time
from typing import Any

import numpy as np

from ddit_jax.files import replace_file
from ddit_jax.monitor.image_grid import pillow_image

_log = logging.getLogger(__name__)

_SCALARS = "scalars.jsonl"
_RESERVED = ("step", "time")
_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)*", re.ASCII)


def read_scalars(path: str | os.PathLike) -> list[dict[str, Any]]:
  """Reads `scalars.jsonl`; a value that was not finite is None.

  A half line that a killed process left at the end is ignored, with a warning.

  Raises:
    ValueError: a broken line that is not the last one.
  """
  lines = pathlib.Path(path).read_bytes().split(b"\n")
  # What follows the last newline was cut off while it was written.
  if lines.pop():
    _log.warning("%s: ignoring a half-written last line", path)
  return [_parse(path, number, line) for number, line in enumerate(lines, 1)]


class MetricWriter:
  """Writes a run's scalars and images to one folder; a context manager.

  It writes `scalars.jsonl` (one line a call), `tensorboard/` and
  `images/<name>/<step>.png`.

  Args:
    folder: of the run; created if absent. None writes nothing, as on all
      processes but the first.

  Attributes:
    non_finite_counts: name -> how many of its values were NaN or infinite.
      They are null in `scalars.jsonl` and unchanged in TensorBoard.
  """

  def __init__(self, folder: pathlib.Path | None):
    self.non_finite_counts: dict[str, int] = {}
    self._folder = folder
    if folder is not None:
      folder.mkdir(parents=True, exist_ok=True)
      path = folder / _SCALARS
      self._rewrite(read_scalars(path) if path.exists() else [])
      self._board = _board(folder)

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
    self._file.write(json.dumps(line, allow_nan=False) + "\n")
    self._file.flush()
    self._last_step = step
    for name, value in values.items():
      if not math.isfinite(value):
        self._count_non_finite(step, name, value)
      self._board.add_scalar(name, value, step, walltime=now)

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
      path.parent.mkdir(parents=True, exist_ok=True)
      picture.save(path)
      self._board.add_image(name, image, step, dataformats="HWC")

  def truncate_after(self, step: int) -> None:
    """Drops values that an earlier run wrote after the restored step.

    TensorBoard hides its events after the step; images are overwritten when
    their step comes again.

    Args:
      step: the restored step; its own lines stay.
    """
    if self._folder is None:
      return
    self._file.close()
    lines = read_scalars(self._folder / _SCALARS)
    kept = [line for line in lines if line["step"] <= step]
    self._rewrite(kept)
    if num_dropped := len(lines) - len(kept):
      _log.warning(
        "%s: dropped %d lines after the restored step %d",
        _SCALARS,
        num_dropped,
        step,
      )
    self._board.close()
    self._board = _board(self._folder, purge_step=step + 1)

  def close(self) -> None:
    """Closes all files and logs how many values were not finite."""
    if self._folder is None:
      return
    self._file.close()
    self._board.close()
    if self.non_finite_counts:
      _log.warning("values that were not finite: %s", self.non_finite_counts)

  def _rewrite(self, lines: list[dict[str, Any]]) -> None:
    """Opens `scalars.jsonl` for appending, with these lines in it."""
    path = self._folder / _SCALARS
    text = "".join(json.dumps(line) + "\n" for line in lines)
    replace_file(path, text.encode())
    self._file = open(path, "a", encoding="utf-8")
    self._last_step = max((line["step"] for line in lines), default=None)

  def _count_non_finite(self, step: int, name: str, value: float) -> None:
    if name not in self.non_finite_counts:
      _log.warning("%s is %s at step %d", name, value, step)
    self.non_finite_counts[name] = self.non_finite_counts.get(name, 0) + 1


def _parse(path: str | os.PathLike, number: int, line: bytes) -> dict[str, Any]:
  try:
    values = json.loads(line)
  except ValueError as error:
    raise ValueError(f"{path} line {number} is not JSON: {error}") from error
  if not isinstance(values, dict) or type(values.get("step")) is not int:
    raise ValueError(f'{path} line {number} has no integer "step"')
  return values


def _board(folder: pathlib.Path, **options: Any):
  """A `tensorboardX.SummaryWriter` with a unique file name."""
  # Imported here because it imports PyTorch, 4 s, wherever that is installed.
  from tensorboardX import SummaryWriter

  folder = folder / "tensorboard"
  folder.mkdir(parents=True, exist_ok=True)
  # File names have the resolution of a second. Without a unique number, a
  # second file in one second would overwrite the first.
  number = len(list(folder.iterdir()))
  return SummaryWriter(str(folder), filename_suffix=f".{number}", **options)


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
