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
    text = "".join(json.dumps(line) + "\n" for line in lines)
    replace_file(self._path, text.encode())
    self._file = open(self._path, "a", encoding="utf-8")


def _parse(path: str | os.PathLike, number: int, line: bytes) -> dict[str, Any]:
  try:
    values = json.loads(line)
  except ValueError as error:
    raise ValueError(f"{path} line {number} is not JSON: {error}") from error
  if not isinstance(values, dict) or type(values.get("step")) is not int:
    raise ValueError(f'{path} line {number} has no integer "step"')
  return values


_RESERVED = ("step", "time")
_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)*", re.ASCII)


class MetricWriter:
  """Writes a run's numbers and pictures below one folder.

  `scalars.jsonl` (always), `tensorboard/` (when wanted) and
  `images/<name>/<step>.png`. Use it on process 0 only, as a context manager or
  with `close()`.

  Attributes:
    non_finite_counts: name -> how many of its values were NaN or infinite.
      They are null in the JSON lines and as they are in TensorBoard.
  """

  def __init__(
    self, folder: str | os.PathLike, *, has_tensorboard: bool = True
  ):
    """Opens the files, new or from an earlier run.

    Args:
      folder: the run's folder; made when absent.
      has_tensorboard: also write TensorBoard events (needs tensorboardX).

    Raises:
      ValueError: TensorBoard is wanted and tensorboardX is not installed.
    """
    self._folder = pathlib.Path(folder)
    self._scalars = ScalarFile(self._folder / "scalars.jsonl")
    self._board = _board(self._folder) if has_tensorboard else None
    self.non_finite_counts: dict[str, int] = {}

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
      ValueError: a name that is reserved or no path-like word, a value that is
        not one number, or a step before the last one.
    """
    now = time.time()
    values = {name: _number(name, x) for name, x in scalars.items()}
    self._scalars.append(
      step, now, {name: _finite_or_none(x) for name, x in values.items()}
    )
    for name, value in values.items():
      if not math.isfinite(value):
        self._count_non_finite(step, name, value)
      if self._board is not None:
        self._board.add_scalar(name, value, step, walltime=now)

  def write_images(self, step: int, images: dict[str, np.ndarray]) -> None:
    """Writes `images/<name>/<step>.png` and the TensorBoard images.

    Args:
      step: the training step.
      images: name -> uint8 [height, width, 1 or 3 channels].

    Raises:
      ValueError: a bad name, or an array of another kind.
    """
    from PIL import Image

    for name, image in images.items():
      _check_name(name)
      _check_image(name, image)
      path = self._folder / "images" / name / f"{step:08d}.png"
      path.parent.mkdir(parents=True, exist_ok=True)
      pixels = image[:, :, 0] if image.shape[2] == 1 else image
      Image.fromarray(np.ascontiguousarray(pixels)).save(path)
      if self._board is not None:
        self._board.add_image(name, image, step, dataformats="HWC")

  def truncate_after(self, step: int) -> int:
    """Drops what an earlier run wrote beyond the step that was restored.

    TensorBoard is told to hide its events beyond the step; images are
    overwritten when their step comes again.

    Args:
      step: the restored step; its own line stays.

    Returns:
      How many lines of `scalars.jsonl` were dropped; logged if any.
    """
    dropped = self._scalars.truncate_after(step)
    if dropped:
      _log.warning(
        "scalars.jsonl: dropped %d lines beyond the restored step %d",
        dropped,
        step,
      )
    if self._board is not None:
      self._board.close()
      self._board = _board(self._folder, purge_step=step + 1)
    return dropped

  def flush(self) -> None:
    """Hands everything written so far to the operating system."""
    if self._board is not None:
      self._board.flush()

  def close(self) -> None:
    """Flushes and closes all files; says how many values were not finite."""
    self._scalars.close()
    if self._board is not None:
      self._board.close()
    if self.non_finite_counts:
      _log.warning("values that were not finite: %s", self.non_finite_counts)

  def _count_non_finite(self, step: int, name: str, value: float) -> None:
    if name not in self.non_finite_counts:
      _log.warning("%s is %s at step %d", name, value, step)
    self.non_finite_counts[name] = self.non_finite_counts.get(name, 0) + 1


def _board(folder: pathlib.Path, **options: Any) -> Any:
  try:
    from tensorboardX import SummaryWriter
  except ImportError as error:
    raise ValueError(
      "TensorBoard events need tensorboardX: pip install tensorboardX, or "
      "pass has_tensorboard=False"
    ) from error
  folder = folder / "tensorboard"
  folder.mkdir(parents=True, exist_ok=True)
  # Names hold only the second: without a number of its own a second file
  # within one second would overwrite the first.
  number = len(list(folder.iterdir()))
  return SummaryWriter(str(folder), filename_suffix=f".{number}", **options)


def _number(name: str, value: Any) -> float:
  _check_name(name)
  if np.ndim(value) != 0:
    raise ValueError(f"{name} has shape {np.shape(value)}: pass one number")
  return float(value)


def _finite_or_none(value: float) -> float | None:
  return value if math.isfinite(value) else None


def _check_name(name: str) -> None:
  if name in _RESERVED or not _NAME.fullmatch(name):
    raise ValueError(
      f"name {name!r} is reserved or no path-like word such as loss/image"
    )


def _check_image(name: str, image: np.ndarray) -> None:
  is_picture = (
    isinstance(image, np.ndarray)
    and image.dtype == np.uint8
    and image.ndim == 3
    and image.shape[2] in (1, 3)
    and image.size > 0
  )
  if not is_picture:
    seen = f"{getattr(image, 'dtype', type(image))} {np.shape(image)}"
    raise ValueError(
      f"image {name} is {seen}: pass uint8 [height, width, 1 or 3]"
    )


class Silent:
  """Has their methods and does nothing."""

  def __enter__(self) -> "Silent":
    return self

  def __exit__(self, *_: object) -> None:
    """Nothing is open."""

  def write_scalars(self, step: int, scalars: dict[str, float]) -> None:
    """As `MetricWriter`."""

  def write_images(self, step: int, images: dict[str, Any]) -> None:
    """As `MetricWriter`."""

  def truncate_after(self, step: int) -> None:
    """As `MetricWriter`."""

  def update(self, step: int, scalars: dict[str, float]) -> None:
    """As `ProgressBar`."""
