"""`ddit`: finds the verb, runs it, and turns bad input into one line."""

import contextlib
import io
import logging
import os
import select
import signal
import sys
import threading

from absl import logging as absl_logging

from ddit_jax.cli import (
  commands,
  compare,
  demo,
  judge,
  plan,
  prepare,
  probe,
  score,
  serve,
)
from ddit_jax.cli.flags import Verb
from ddit_jax.config.load import split_overrides
from ddit_jax.errors import InputError, one_line, printable, suggest
from ddit_jax.monitor import start_times

VERBS: dict[str, Verb] = {
  verb.name: verb
  for verb in (
    prepare.VERB,
    plan.VERB,
    commands.TRAIN,
    probe.VERB,
    commands.SAMPLE,
    commands.EVALUATE,
    score.VERB,
    compare.VERB,
    judge.VERB,
    commands.LORA,
    serve.VERB,
    demo.VERB,
  )
}

BAD_INPUT = 2
_INTERRUPTED = 130
# As of a program that SIGPIPE ends.
_OUTPUT_CLOSED = 141


def main(argv: list[str] | None = None) -> int:
  """Runs `ddit` with arguments (default: the process's); the exit code.

  Bad input (verb, flag, config key, type, value or path) prints one line on
  stderr and returns 2.
  """
  start_times.mark_begin()
  argv = sys.argv[1:] if argv is None else argv
  _show_messages()
  try:
    code = _dispatch(argv)
    print(end="", flush=True)
    return code
  except InputError as error:
    print(f"ddit: {one_line(error)}", file=sys.stderr)
    return BAD_INPUT
  except KeyboardInterrupt:
    print("ddit: interrupted", file=sys.stderr)
    return _INTERRUPTED
  except BrokenPipeError:
    # The output is read by `head`, for example, which has enough.
    if not _drop_closed_output():
      raise
    return _OUTPUT_CLOSED


def _drop_closed_output() -> bool:
  """False if stdout is open; else Python need not report that at its end."""
  with contextlib.suppress(io.UnsupportedOperation):
    number = sys.stdout.fileno()
    poll = select.poll()
    poll.register(number, 0)
    if any(event & select.POLLERR for _, event in poll.poll(0)):
      nowhere = os.open(os.devnull, os.O_WRONLY)
      os.dup2(nowhere, number)
      os.close(nowhere)
      return True
  return False


def overview() -> str:
  """The list of verbs."""
  lines = [
    "ddit: train, sample and evaluate the Dual Diffusion Transformer",
    "",
    "usage: ddit VERB [--flag=value ...]    (ddit VERB --help says more)",
    "",
  ]
  width = max(map(len, VERBS))
  lines += [f"  {v.name:<{width}}  {v.summary}" for v in VERBS.values()]
  return "\n".join(lines)


class _Printable(logging.Formatter):
  """Names in files and folders may hold control characters."""

  def format(self, record: logging.LogRecord) -> str:
    return printable(super().format(record))


def _show_messages() -> None:
  """Sends this package's messages and libraries' warnings to stderr.

  Orbax and Grain log through absl, including routine messages and pages of
  tracebacks of errors that they raise as well.
  """
  handler = logging.StreamHandler()
  handler.setFormatter(_Printable("%(message)s"))
  logging.basicConfig(handlers=[handler])
  logging.getLogger("ddit_jax").setLevel(logging.INFO)
  absl_logging.set_verbosity(absl_logging.FATAL)
  sys.unraisablehook = _show_unraisable


def _show_unraisable(unraisable: "sys.UnraisableHookArgs") -> None:
  """Repeats a Ctrl-C that came where Python drops exceptions.

  Hides what TensorStore prints after a save that failed and was reported.
  """
  if unraisable.exc_type is KeyboardInterrupt:
    # Raised here, it would be dropped again.
    repeat = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
    repeat.daemon = True
    repeat.start()
  elif str(unraisable.exc_value) != "Event loop is closed":
    sys.__unraisablehook__(unraisable)


def _dispatch(argv: list[str]) -> int:
  if not argv or argv[0] in ("--help", "-h", "help"):
    print(overview())
    return 0 if argv else BAD_INPUT
  name, *rest = argv
  if name not in VERBS:
    raise InputError(f"unknown verb {name!r}: {suggest(name, VERBS)}")
  verb = VERBS[name]
  if {"--help", "-h"} & set(rest):
    print(verb.help_text())
    return 0
  overrides = {}
  if verb.section:
    rest, overrides = split_overrides(rest, verb.section)
  return verb.run(verb.parse(rest), overrides)
