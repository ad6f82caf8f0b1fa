"""Programs of the TPU compiler, whole or before it generates machine code.

Generating it takes nine tenths of the time that a full-size step is compiled
for, and nothing but the estimates of cycles comes of it that a plan needs. The
compiler cannot be stopped, so that it runs in a process that is thrown away.
"""

import dataclasses
import multiprocessing
import pathlib
import re
import tempfile
import threading
from collections.abc import Callable, Mapping
from typing import Any

import jax

from ddit_jax.errors import InputError

_PLACED = "*.after_optimizations_after_buffer_assignment.txt"
_FINAL = "*.after_codegen.txt"
_BUFFERS = "*.after_optimizations-buffer-assignment.txt"
# Of the default memory; other memories have a color.
_BUFFER = re.compile(r"^allocation \d+: size (\d+), (?!color)(.*)$", re.M)
_POLL_SECONDS = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class TpuProgram:
  """A program whose buffers are placed, to be read as a `Compiled`.

  Attributes:
    text: its HLO.
    argument_size_in_bytes: on one device, as in `Compiled.memory_analysis()`.
    temp_size_in_bytes: likewise.
    output_size_in_bytes: of outputs that alias no argument.
    alias_size_in_bytes: none of these do.
    generated_code_size_in_bytes: 0 if none was generated.
  """

  text: str
  argument_size_in_bytes: int
  temp_size_in_bytes: int
  output_size_in_bytes: int
  alias_size_in_bytes: int = 0
  generated_code_size_in_bytes: int = 0

  @classmethod
  def parse(cls, text: str, buffers: str) -> "TpuProgram":
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

  def memory_analysis(self) -> "TpuProgram":
    """Itself, which has the sizes."""
    return self


def tpu_program(
  lowered: jax.stages.Lowered,
  compiler_options: Mapping[str, Any],
  *,
  is_quick: bool,
) -> TpuProgram:
  """What the TPU compiler writes down while it compiles.

  A compiled program itself counts some arrays twice in its memory, and that of
  a v6e may not be printable.

  Args:
    lowered: for devices of TPUs.
    compiler_options: as of `Lowered.compile`.
    is_quick: whether to return when buffers are placed. The compiler then goes
      on in a thread: call this in a process of its own, see `in_own_process`.

  Raises:
    jax.errors.JaxRuntimeError: the program cannot be compiled.
    InputError: the compiler writes nothing.
  """
  with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
    dump = {"xla_dump_to": folder, "xla_dump_hlo_as_text": True}
    folder = pathlib.Path(folder)
    options = {**compiler_options, **dump}
    if is_quick:
      _wait_for_buffers(lowered, options, folder)
      return TpuProgram.parse(_text(folder, _PLACED), _text(folder, _BUFFERS))
    compiled = lowered.compile(compiler_options=options)
    code = compiled.memory_analysis().generated_code_size_in_bytes
    program = TpuProgram.parse(_text(folder, _FINAL), _text(folder, _BUFFERS))
    return dataclasses.replace(program, generated_code_size_in_bytes=code)


def _wait_for_buffers(
  lowered: jax.stages.Lowered, options: dict[str, Any], folder: pathlib.Path
) -> None:
  """Compiles in a thread until the program with its buffers is written."""
  failed = []

  def compile_() -> None:
    try:
      lowered.compile(compiler_options=options)
    except jax.errors.JaxRuntimeError as error:
      failed.append(error)

  thread = threading.Thread(target=compile_, daemon=True)
  thread.start()
  size = -1
  while thread.is_alive():
    thread.join(_POLL_SECONDS)
    before = size
    size = sum(path.stat().st_size for path in folder.glob(_PLACED))
    if size == before > 0:
      return
  if failed:
    raise failed[0]


def _text(folder: pathlib.Path, pattern: str) -> str:
  found = list(folder.glob(pattern))
  if len(found) != 1:
    raise InputError(
      f"the TPU compiler wrote {len(found)} files {pattern}, not one: it is "
      "another version of libtpu than this one was tested with"
    )
  return found[0].read_text()


def in_own_process(function: Callable[..., Any], *arguments: Any) -> Any:
  """A function's result, from a process that is killed once it has one.

  Args:
    function: of a module, so that the new process finds it.
    *arguments: which travel to it.

  Raises:
    InputError: as the function does, or the process was killed.
    RuntimeError: the function failed; the process wrote why.
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
    code = process.exitcode
    if code >= 0:
      raise RuntimeError(f"the compiler's process ended with {code}") from None
    raise InputError(
      f"the compiler's process was killed by signal {-code}: it may need more "
      "memory"
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
