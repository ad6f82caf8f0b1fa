"""The progress bar of a run."""

import sys

from tqdm import tqdm

_SECONDS_BETWEEN_LINES = 30.0


class _Lines:
  """A log file in place of a terminal: every state of the bar is a line."""

  def write(self, text: str) -> None:
    sys.stderr.write(text.replace("\r", "\n"))

  def flush(self) -> None:
    sys.stderr.flush()


def progress_bar(
  total: int, *, initial: int = 0, is_shown: bool = True
) -> tqdm:
  """A tqdm bar on a terminal; in a log file a line every 30 seconds.

  Args:
    total: the last step of the run.
    initial: the step that was restored, 0 for a new run.
    is_shown: False shows nothing, as on all processes but the first.
  """
  is_terminal = sys.stderr.isatty()
  return tqdm(
    total=total,
    initial=initial,
    disable=not is_shown,
    unit="step",
    file=sys.stderr if is_terminal else _Lines(),
    ncols=None if is_terminal else 0,
    dynamic_ncols=is_terminal,
    mininterval=0.1 if is_terminal else _SECONDS_BETWEEN_LINES,
  )
