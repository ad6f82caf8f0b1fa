"""Ends a process whose run no longer moves, with the stacks of its threads."""

import contextlib
import dataclasses
import faulthandler
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

_SECONDS_BETWEEN_LOOKS = 1.0
# For the stacks: the disk may be what hangs.
_SECONDS_TO_WRITE = 10.0
# Compiling, validating and saving take longer than a step, by this factor.
_PATIENCE = 6


@dataclasses.dataclass(frozen=True, eq=False)
class _Wait:
  """What the run waits for, and for how long it may."""

  what: str
  seconds: float


class Watchdog:
  """Knows what the run waits for, and ends the process if that never comes.

  Time in which the process is stopped (Ctrl-Z) does not count.

  Args:
    path: file for the stacks of all threads.
    seconds: how long the run may wait for a step or its batch; six times as
      long for what is slow; 0 waits for ever.
  """

  def __init__(self, path: Path, seconds: float):
    self._path, self._seconds = path, seconds
    self.waits_for("its start", is_slow=True)

  @property
  def waits(self) -> str:
    """What the run waits for now."""
    return self._wait.what

  def waits_for(
    self, what: str, *, is_slow: bool = False, is_endless: bool = False
  ) -> None:
    """From now on the run waits for `what`, e.g. "step 7".

    Args:
      what: names it in messages.
      is_slow: True allows six times as long.
      is_endless: True allows any time, for what grows with the data.
    """
    patience = _PATIENCE if is_slow else 1
    seconds = math.inf if is_endless else patience * self._seconds
    self._wait = _Wait(what, seconds)

  @contextlib.contextmanager
  def ending_hangs(self, end: Callable[[str], None]) -> Iterator[None]:
    """A block in which no wait takes for ever.

    Args:
      end: takes the line that says what took too long, and ends the process.
    """
    is_over = threading.Event()
    if self._seconds:
      threading.Thread(
        target=self._watch, args=(is_over, end), daemon=True
      ).start()
    try:
      yield
    finally:
      is_over.set()

  def _watch(self, is_over: threading.Event, end: Callable) -> None:
    wait, waited, last = self._wait, 0.0, time.monotonic()
    while not is_over.wait(_SECONDS_BETWEEN_LOOKS):
      now = time.monotonic()
      # A longer pause means that the whole process was stopped.
      waited += min(now - last, 2 * _SECONDS_BETWEEN_LOOKS)
      last = now
      if wait is not self._wait:
        wait, waited = self._wait, 0.0
      elif waited > wait.seconds:
        end(
          f"waited for {wait.what} for more than {wait.seconds:.0f} seconds; "
          f"the stacks of its threads are in {self._write_stacks()}"
        )

  def _write_stacks(self) -> Path | str:
    """Where the stacks of all threads are now."""
    writer = threading.Thread(target=self._append_stacks, daemon=True)
    writer.start()
    writer.join(_SECONDS_TO_WRITE)
    if not writer.is_alive() and self._path.is_file():
      return self._path
    faulthandler.dump_traceback(sys.__stderr__)
    return f"its output, since {self._path} cannot be written"

  def _append_stacks(self) -> None:
    with contextlib.suppress(OSError), open(self._path, "a") as file:
      now = time.strftime("%Y-%m-%d %H:%M:%S")
      file.write(f"{now}, waiting for {self.waits}\n")
      file.flush()
      faulthandler.dump_traceback(file)


# Waits for ever.
NO_WATCHDOG = Watchdog(Path(), 0)
