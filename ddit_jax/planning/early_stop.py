"""Programs of the TPU compiler as they are before it generates machine code.

Generating it takes nine tenths of the time that a full-size step is compiled
for, and nothing but the estimates of cycles comes of it that a plan needs.
The compiler cannot be stopped, so this runs in a process that is thrown away.
"""

import dataclasses
import multiprocessing
import pathlib
import re
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

from ddit_jax.errors import InputError

_PROGRAM = "*.after_optimizations_after_buffer_assignment.txt"
_BUFFERS = "*.after_optimizations-buffer-assignment.txt"
# Of the default memory; other memories have a color.
_BUFFER = re.compile(r"^allocation \d+: size (\d+), (?!color)(.*)$", re.M)
_POLL_SECONDS = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScheduledProgram:
  """A program whose buffers are placed, as a `jax.stages.Compiled` to read.

  Attributes:
    text: its HLO.
    argument_size_in_bytes: on one device, as in `Compiled.memory_analysis()`.
    temp_size_in_bytes: likewise.
    output_size_in_bytes: of outputs that alias no argument.
    alias_size_in_bytes: none of these do.
    generated_code_size_in_bytes: there is none.
  """

  text: str
  argument_size_in_bytes: int
  temp_size_in_bytes: int
  output_size_in_bytes: int
  alias_size_in_bytes: int = 0
  generated_code_size_in_bytes: int = 0

  @classmethod
  def parse(cls, text: str, buffers: str) -> "ScheduledProgram":
    """From the HLO and the buffer assignment that the compiler writes."""
    arguments = temporaries = outputs = 0
    for size, of_what in _BUFFER.findall(buffers):
      if of_what.startswith("parameter"):
        arguments += int(size)
      elif "live-out" in of_what:
        outputs += int(size)
      elif not of_what.startswith("thread-local"):
        temporaries += int(size)
    return cls(
      text=text,
      argument_size_in_bytes=arguments,
      temp_size_in_bytes=temporaries,
      output_size_in_bytes=outputs,
    )

  def as_text(self) -> str:
    """The HLO."""
    return self.text

  def memory_analysis(self) -> "ScheduledProgram":
    """Itself, which has the sizes."""
    return self


def scheduled_program(
  lowered: jax.stages.Lowered, compiler_options: Mapping[str, Any]
) -> ScheduledProgram:
  """Compiles until the program has its schedule and its buffers.

  The compiler goes on in a thread: call this in a process of its own, see
  `in_own_process`.

  Args:
    lowered: for devices of TPUs.
    compiler_options: as of `Lowered.compile`.

  Raises:
    jax.errors.JaxRuntimeError: the program cannot be compiled.
  """
  with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
    dump = {"xla_dump_to": folder, "xla_dump_hlo_as_text": True}
    failed = []

    def compile_() -> None:
      try:
        lowered.compile(compiler_options={**compiler_options, **dump})
      except jax.errors.JaxRuntimeError as error:
        failed.append(error)

    thread = threading.Thread(target=compile_, daemon=True)
    thread.start()
    size = -1
    while True:
      is_over = not thread.is_alive()
      found = list(pathlib.Path(folder).glob(_PROGRAM))
      if failed:
        raise failed[0]
      if found and (is_over or found[0].stat().st_size == size > 0):
        (buffers,) = pathlib.Path(folder).glob(_BUFFERS)
        return ScheduledProgram.parse(found[0].read_text(), buffers.read_text())
      if is_over:
        raise InputError("the TPU compiler wrote no program: leave --quick out")
      size = found[0].stat().st_size if found else -1
      time.sleep(_POLL_SECONDS)


def in_own_process(function: Callable[..., Any], *arguments: Any) -> Any:
  """A function's result, from a process that is killed once it has one.

  Args:
    function: of a module, so that the new process finds it.
    *arguments: which travel to it.

  Raises:
    InputError: as the function does, or the process died.
  """
  context = multiprocessing.get_context("spawn")
  receiver, sender = context.Pipe(duplex=False)
  process = context.Process(
    target=_send_result, args=(sender, function, arguments), daemon=True
  )
  process.start()
  sender.close()
  try:
    result = receiver.recv()
  except EOFError:
    process.join()
    raise InputError(
      f"the process of the compiler ended with {process.exitcode} and without "
      "a plan: it may need more memory"
    ) from None
  finally:
    process.kill()
    process.join()
  if isinstance(result, Exception):
    raise result
  return result


def _send_result(sender, function: Callable, arguments: tuple) -> None:
  try:
    result = function(*arguments)
  except InputError as error:
    result = error
  sender.send(result)
