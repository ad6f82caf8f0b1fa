"""The progress bar of a run."""

import contextlib
import sys
from typing import Any

from tqdm import tqdm

_SECONDS_BETWEEN_LINES = 30.0


class _Stderr:
  """stderr; a closed terminal or a full disk below it never stops a run.

  In a log file every state of the bar is a line.
  """

  def __init__(self, *, is_terminal: bool):
    self._is_terminal = is_terminal

  def __getattr__(self, name: str) -> Any:
    return getattr(sys.stderr, name)

  def write(self, text: str) -> None:
    with contextlib.suppress(OSError, ValueError):
      sys.stderr.write(text if self._is_terminal else text.replace("\r", "\n"))

  def flush(self) -> None:
    with contextlib.suppress(OSError, ValueError):
      sys.stderr.flush()


def progress_bar(
  total: int, *, initial: int = 0, is_shown: bool = True, unit: str = "step"
) -> tqdm:
  """A tqdm bar on a terminal; in a log file a line every 30 seconds.

  Args:
    total: the last step of the run.
    initial: the step that was restored, 0 for a new run.
    is_shown: False shows nothing, as on all processes but the first.
    unit: what is counted.
  """
  is_terminal = sys.stderr.isatty()
  return tqdm(
    total=total,
    initial=initial,
    disable=not is_shown,
    unit=unit,
    file=_Stderr(is_terminal=is_terminal),
    ncols=None if is_terminal else 0,
    dynamic_ncols=is_terminal,
    mininterval=0.1 if is_terminal else _SECONDS_BETWEEN_LINES,
  )
