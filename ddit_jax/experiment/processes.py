"""The processes of one job: equal settings, and no wait without an end.

A process that leaves alone would let the others wait in a collective for ever.
So every process says that it is alive, and why it leaves, in the key-value
store of the job's coordinator, and looks there for the others.
"""

import contextlib
import dataclasses
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict

# JAX has no public name for the client that `jax.distributed` starts.
from jax._src import distributed
from jax.experimental import multihost_utils

from ddit_jax.checkpoint.manifest import raise_on_all
from ddit_jax.errors import InputError, one_line

_SECONDS_BETWEEN_LOOKS = 1.0
# A process that said nothing for this long was killed, or its machine is gone.
_SECONDS_UNTIL_DEAD = 60.0
# For a process to leave by itself, with its own reason, after another one did.
_SECONDS_TO_LEAVE = 10.0
_ALIVE, _STOPPED = "ddit_jax/alive/", "ddit_jax/stopped/"
_DONE = "done"
_BAD_INPUT, _FAILED, _INTERRUPTED = 2, 1, 130


def check_same_settings(settings: Mapping[str, Any]) -> None:
  """Raises unless every process of the job has the same settings.

  Args:
    settings: nested and JSON-able.

  Raises:
    InputError: on a process whose settings differ from the first one's; the
      line names the first setting that does.
    CheckpointError: on the other processes.
  """
  if jax.process_count() == 1:
    return
  mine = json.dumps(settings, sort_keys=True).encode()
  length = int(multihost_utils.broadcast_one_to_all(np.int32(len(mine))))
  padded = np.frombuffer(mine[:length].ljust(length), np.uint8)
  first = multihost_utils.broadcast_one_to_all(padded).astype(np.uint8)
  error = None
  if first.tobytes() != mine:
    error = _difference(json.loads(first.tobytes()), json.loads(mine))
  raise_on_all(error, doing="comparing the settings of all processes")


def _difference(first: dict[str, Any], mine: dict[str, Any]) -> InputError:
  first, mine = (
    flatten_dict(one, keep_empty_nodes=True, sep=".") for one in (first, mine)
  )
  key = next(
    key
    for key in sorted({*first, *mine})
    if first.get(key) != mine.get(key) or (key in first) != (key in mine)
  )
  return InputError(
    f"process {jax.process_index()} was started with {key} = "
    f"{mine.get(key)!r}, the first process with {first.get(key)!r}: start all "
    "processes of a job with the same settings"
  )


@contextlib.contextmanager
def leaving_together() -> Iterator[None]:
  """A block that all processes enter together and that none outlives alone.

  With several processes, one that fails in it, is interrupted or is killed ends
  all of them, each with one line that names it. With one process it does
  nothing.
  """
  if jax.process_count() == 1:
    yield
    return
  watch = _Watch(distributed.global_state.client, jax.process_index())
  watch.start()
  try:
    yield
  except BaseException as error:
    watch.leave(error)
  watch.finish()


class _Watch(threading.Thread):
  """Says that this process is alive, and ends it when another one is not."""

  def __init__(self, client: Any, index: int):
    super().__init__(daemon=True)
    self._client, self._index = client, index
    self._is_over = threading.Event()

  def run(self) -> None:
    peers: dict[str, _Peer] = {}
    while not self._is_over.wait(_SECONDS_BETWEEN_LOOKS):
      reason = self._look(peers)
      # Another process's reason is often this one's, too.
      if reason and not self._is_over.wait(_SECONDS_TO_LEAVE):
        _end(*reason)

  def finish(self) -> None:
    """Ends the watch after a block that went well."""
    self._is_over.set()
    self._say(_ALIVE, _DONE)

  def leave(self, error: BaseException) -> None:
    """Tells the other processes why this one leaves, and ends it."""
    self._is_over.set()
    line, code = _line(error), _exit_code(error)
    self._say(_STOPPED, f"{code} {line}")
    if not isinstance(error, (InputError, KeyboardInterrupt)):
      traceback.print_exception(error)
    if self._index == 0:
      # The store of keys ends with this process.
      time.sleep(2 * _SECONDS_BETWEEN_LOOKS)
    _end(line, code)

  def _look(self, peers: dict[str, "_Peer"]) -> tuple[str, int] | None:
    """Why this process has to leave and its exit code, if it has to."""
    self._say(_ALIVE, str(time.time_ns()))
    for key, said in self._client.key_value_dir_get(_STOPPED):
      code, line = said.split(" ", 1)
      return f"process {key.removeprefix(_STOPPED)} stopped: {line}", int(code)
    now = time.monotonic()
    for key, beat in self._client.key_value_dir_get(_ALIVE):
      if key not in peers or peers[key].beat != beat:
        peers[key] = _Peer(beat, now)
      silence = now - peers[key].since
      if beat != _DONE and silence > _SECONDS_UNTIL_DEAD:
        reason = (
          f"process {key.removeprefix(_ALIVE)} was killed or cannot be "
          f"reached: nothing was heard of it for {silence:.0f} seconds"
        )
        return reason, _FAILED
    return None

  def _say(self, prefix: str, text: str) -> None:
    self._client.key_value_set(
      f"{prefix}{self._index}", text, allow_overwrite=True
    )


@dataclasses.dataclass(frozen=True)
class _Peer:
  """The last sign of life of a process, and when it was first seen."""

  beat: str
  since: float


def _line(error: BaseException) -> str:
  if isinstance(error, KeyboardInterrupt):
    return "interrupted"
  if isinstance(error, InputError):
    return one_line(error)
  return one_line(f"{type(error).__name__}: {error}")


def _exit_code(error: BaseException) -> int:
  if isinstance(error, KeyboardInterrupt):
    return _INTERRUPTED
  return _BAD_INPUT if isinstance(error, InputError) else _FAILED


def _end(line: str, code: int) -> None:
  """Ends the process at once: an orderly exit would wait for the others."""
  print(f"ddit: {line}", file=sys.stderr, flush=True)
  os._exit(code)
