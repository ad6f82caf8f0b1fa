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
      try:
        reason = self._look(peers)
      except jax.errors.JaxRuntimeError:
        reason = "the first process of the job cannot be reached", _FAILED
      # Another process's reason is often this one's, too.
      if reason and not self._is_over.wait(_SECONDS_TO_LEAVE):
        self._end(*reason)

  def finish(self) -> None:
    """Ends the watch after a block that went well."""
    self._is_over.set()
    self._say(_ALIVE, _DONE)

  def leave(self, error: BaseException) -> None:
    """Tells the other processes why this one leaves, and ends it."""
    self._is_over.set()
    line, code = self._reason(error)
    self._say(_STOPPED, f"{code} {line}")
    if self._index == 0:
      self._wait_for_peers()
    self._end(line, code)

  def _reason(self, error: BaseException) -> tuple[str, int]:
    """The line and the exit code of an error."""
    if isinstance(error, KeyboardInterrupt):
      return "interrupted", _INTERRUPTED
    if isinstance(error, InputError):
      return one_line(error), _BAD_INPUT
    # A collective breaks when a process on its other side is gone.
    if gone := self._gone_peer():
      return gone
    traceback.print_exception(error)
    return one_line(f"{type(error).__name__}: {error}"), _FAILED

  def _gone_peer(self) -> tuple[str, int] | None:
    with contextlib.suppress(jax.errors.JaxRuntimeError):
      before = dict(self._client.key_value_dir_get(_ALIVE))
      before.pop(f"{_ALIVE}{self._index}", None)
      time.sleep(3 * _SECONDS_BETWEEN_LOOKS)
      if stopped := self._stopped_peer():
        return stopped
      now = dict(self._client.key_value_dir_get(_ALIVE))
      for key, sign in before.items():
        if now[key] == sign != _DONE:
          return _killed(key), _FAILED
    return None

  def _stopped_peer(self) -> tuple[str, int] | None:
    for key, said in self._client.key_value_dir_get(_STOPPED):
      code, line = said.split(" ", 1)
      return f"process {key.removeprefix(_STOPPED)} stopped: {line}", int(code)
    return None

  def _wait_for_peers(self) -> None:
    """Waits until the others have left: the keys end with this process."""
    end = time.monotonic() + 2 * _SECONDS_TO_LEAVE
    while time.monotonic() < end:
      signs = dict(self._client.key_value_dir_get(_ALIVE))
      signs.pop(f"{_ALIVE}{self._index}", None)
      if all(sign == _DONE for sign in signs.values()):
        return
      time.sleep(_SECONDS_BETWEEN_LOOKS)

  def _look(self, peers: dict[str, "_Peer"]) -> tuple[str, int] | None:
    """Why this process has to leave and its exit code, if it has to."""
    self._say(_ALIVE, str(time.time_ns()))
    if stopped := self._stopped_peer():
      return stopped
    now = time.monotonic()
    for key, beat in self._client.key_value_dir_get(_ALIVE):
      if key not in peers or peers[key].beat != beat:
        peers[key] = _Peer(beat, now)
      silence = now - peers[key].since
      if beat != _DONE and silence > _SECONDS_UNTIL_DEAD:
        return _killed(key), _FAILED
    return None

  def _say(self, prefix: str, text: str) -> None:
    with contextlib.suppress(jax.errors.JaxRuntimeError):
      self._client.key_value_set(
        f"{prefix}{self._index}", text, allow_overwrite=True
      )

  def _end(self, line: str, code: int) -> None:
    """Ends the process at once: an orderly exit would wait for the others."""
    print(f"ddit: {line}", file=sys.stderr, flush=True)
    self._say(_ALIVE, _DONE)
    os._exit(code)


@dataclasses.dataclass(frozen=True)
class _Peer:
  """The last sign of life of a process, and when it was first seen."""

  beat: str
  since: float


def _killed(key: str) -> str:
  return f"process {key.removeprefix(_ALIVE)} was killed or cannot be reached"
