"""Where the time from a program's start to its first step goes."""

import logging
import time

_began = time.monotonic()
_log = logging.getLogger(__name__)


def mark_begin() -> None:
  """The program starts, and has not imported large libraries yet."""
  global _began
  _began = time.monotonic()


def seconds_since_begin() -> float:
  """Seconds since `begin`, or since the import of this module."""
  return time.monotonic() - _began


class StartTimes:
  """Seconds from a run's start to its first step, by phase.

  Args:
    import_seconds: of the imports before.
  """

  def __init__(self, import_seconds: float = 0.0):
    self._last = time.monotonic()
    self._seconds = {"import": import_seconds} if import_seconds else {}
    self._is_logged = False

  def end_phase(self, name: str) -> None:
    """Counts the time since the last call for a phase."""
    now = time.monotonic()
    self._seconds[name] = self._seconds.get(name, 0.0) + now - self._last
    self._last = now

  def log(self) -> None:
    """Logs all phases, once."""
    if not self._is_logged:
      self._is_logged = True
      parts = ", ".join(f"{k} {x:.1f}" for k, x in self._seconds.items())
      total = sum(self._seconds.values())
      _log.info("first step after %.1f s: %s", total, parts)
