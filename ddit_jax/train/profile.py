"""Traces of a few steps for XProf and TensorBoard."""

import logging
import os
from collections.abc import Callable
from typing import TypeVar

import jax

_T = TypeVar("_T")
_log = logging.getLogger(__name__)


def parse_window(text: str) -> range:
  """The steps of "10,14", both included; none for "".

  Raises:
    ValueError: the text is not two steps in order.
  """
  if not text:
    return range(0)
  numbers = text.split(",")
  if len(numbers) == 2 and all(n.strip().isdecimal() for n in numbers):
    first, last = map(int, numbers)
    if 1 <= first <= last:
      return range(first, last + 1)
  raise ValueError(
    "profile_steps must be the first and the last step, e.g. '10,14', or '' "
    f"for none, got {text!r}"
  )


class ProfileWindow:
  """Marks every step for a profiler, and traces some of them.

  Args:
    folder: of the traces.
    steps: that are traced.
  """

  def __init__(self, folder: str | os.PathLike, steps: range):
    self._folder, self._steps, self._is_open = folder, steps, False

  def run(self, step: int, function: Callable[[], _T]) -> _T:
    """The outputs of the function, which dispatches this step."""
    if step in self._steps and not self._is_open:
      jax.profiler.start_trace(self._folder)
      self._is_open = True
    with jax.profiler.StepTraceAnnotation("train", step_num=step):
      outputs = function()
    if self._is_open and step + 1 not in self._steps:
      # The devices may still be at it.
      jax.block_until_ready(outputs)
      self.close()
    return outputs

  def close(self) -> None:
    """Ends a trace that is still going on."""
    if self._is_open:
      self._is_open = False
      jax.profiler.stop_trace()
      _log.info("the trace of steps is in %s", self._folder)
