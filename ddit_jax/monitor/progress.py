"""ProgressBar: one moving line on a terminal, plain lines elsewhere."""

import collections
import math
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO

# Scalar name -> label in the line, in this order.
_LABELS = {"loss/total": "loss", "loss/image": "image", "loss/text": "text"}
# Long enough to be calm, short enough to forget the compilation soon.
_RATE_WINDOW = 50


class ProgressBar:
  """Shows step, losses, speed and time left on stderr.

  On a terminal it is a tqdm bar; otherwise (a log file, a batch job) one plain
  line every few seconds.
  """

  def __init__(
    self,
    total: int,
    *,
    initial: int = 0,
    seconds_between_lines: float = 30.0,
    stream: TextIO | None = None,
    clock: Callable[[], float] = time.monotonic,
  ):
    """Starts to measure.

    Args:
      total: the last step of the run.
      initial: the step that was restored, 0 for a new run.
      seconds_between_lines: how often a plain line is printed.
      stream: where to write; stderr when None.
      clock: seconds that never go back; tests pass their own.

    Raises:
      ValueError: `initial` is not within 0..total.
    """
    if not 0 <= initial <= total:
      raise ValueError(f"initial is {initial}: it must lie in 0..{total}")
    self._total = total
    self._step = initial
    self._stream = sys.stderr if stream is None else stream
    self._clock = clock
    self._seconds_between_lines = seconds_between_lines
    self._last_line_at = -math.inf
    self._losses: dict[str, float] = {}
    self._marks = collections.deque([(clock(), initial)], maxlen=_RATE_WINDOW)
    self._bar = self._open_bar() if self._stream.isatty() else None

  def __enter__(self) -> "ProgressBar":
    return self

  def __exit__(self, *_: object) -> None:
    self.close()

  def update(
    self, step: int, scalars: Mapping[str, float] | None = None
  ) -> None:
    """Moves on to `step`.

    Args:
      step: steps done so far.
      scalars: newest values, of which "loss/total", "loss/image" and
        "loss/text" are shown; None keeps showing the last ones.
    """
    self._marks.append((self._clock(), step))
    self._losses.update(
      {n: float(v) for n, v in (scalars or {}).items() if n in _LABELS}
    )
    advance, self._step = step - self._step, step
    if self._bar is not None:
      self._bar.set_postfix_str(self._details(), refresh=False)
      self._bar.update(advance)
    elif self._is_line_due():
      self.say(self.line())

  def line(self) -> str:
    """The plain line: step, share done, losses, speed and time left."""
    share = 100 * self._step / self._total if self._total else 100.0
    head = f"step {self._step}/{self._total} ({share:.0f} %)"
    return f"{head}  {self._details()}".rstrip()

  def say(self, message: str) -> None:
    """Prints a message of its own without tearing the bar."""
    if self._bar is not None:
      self._bar.write(message, file=self._stream)
    else:
      print(message, file=self._stream, flush=True)

  def close(self) -> None:
    """Ends the bar, or prints the last plain line if it was not shown yet."""
    if self._bar is not None:
      self._bar.close()
    elif self._last_line_at < self._marks[-1][0]:
      self.say(self.line())

  def _open_bar(self) -> Any:
    from tqdm import tqdm

    return tqdm(
      total=self._total,
      initial=self._step,
      file=self._stream,
      dynamic_ncols=True,
      bar_format="{percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt}{postfix}",
    )

  def _is_line_due(self) -> bool:
    now = self._marks[-1][0]
    is_due = (
      now - self._last_line_at >= self._seconds_between_lines
      or self._step >= self._total
    )
    if is_due:
      self._last_line_at = now
    return is_due

  def _details(self) -> str:
    parts = [
      f"{label} {self._losses[name]:.4g}"
      for name, label in _LABELS.items()
      if name in self._losses
    ]
    rate = self._steps_per_second()
    if rate > 0:
      left = max(self._total - self._step, 0) / rate
      parts += [f"{rate:.3g} steps/s", f"{format_duration(left)} left"]
    return "  ".join(parts)

  def _steps_per_second(self) -> float:
    (begin, first), (end, last) = self._marks[0], self._marks[-1]
    return (last - first) / (end - begin) if end > begin else 0.0


def format_duration(seconds: float) -> str:
  """Writes a duration with its two largest units: "2d 3h", "5m 09s", "7s"."""
  whole = round(seconds)
  minutes, second = divmod(whole, 60)
  hours, minute = divmod(minutes, 60)
  days, hour = divmod(hours, 24)
  if days:
    return f"{days}d {hour}h"
  if hours:
    return f"{hour}h {minute:02d}m"
  return f"{minute}m {second:02d}s" if minutes else f"{second}s"
