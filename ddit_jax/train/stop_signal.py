"""SIGTERM and Ctrl-C as a question the loop can ask."""

import signal

import jax
from jax.experimental import multihost_utils


class StopSignal:
  """A context in which SIGTERM and SIGINT ask for an orderly stop.

  Args:
    steps_before: added to every step asked about. JAX compares steps with those
      of earlier questions in this process.

  Attributes:
    was_asked: True once a stop was asked for, even after the last question.

  In a job of several processes JAX's own preemption notice is used: all
  processes agree on the step at which they stop.
  """

  def __init__(self, *, steps_before: int = 0):
    self._steps_before = steps_before
    self.was_asked = False

  def __enter__(self) -> "StopSignal":
    self.was_asked = False
    self._old = {
      number: signal.signal(number, self._ask)
      for number in (signal.SIGTERM, signal.SIGINT)
      if jax.process_count() == 1
    }
    return self

  def __exit__(self, *_: object) -> None:
    for number, handler in self._old.items():
      signal.signal(number, handler)

  def is_asked(self, step: int) -> bool:
    """True if the run shall save and stop after this step."""
    if jax.process_count() > 1:
      number = self._steps_before + step
      self.was_asked |= multihost_utils.reached_preemption_sync_point(number)
    return self.was_asked

  def _ask(self, number, frame) -> None:
    del frame
    if self.was_asked and number == signal.SIGINT:
      raise KeyboardInterrupt
    self.was_asked = True
