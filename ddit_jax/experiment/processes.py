"""The processes of one job: equal settings, and no wait without an end.

A process that leaves alone would let the others wait in a collective for ever.
So every process says that it is alive, and why it leaves, in the key-value
store of the job's coordinator, and looks there for the others. A run that no
longer moves ends, too.
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
from ddit_jax.errors import InputError, first_few, one_line
from ddit_jax.train.watchdog import NO_WATCHDOG, Watchdog

_SECONDS_BETWEEN_LOOKS = 1.0
# For a process to leave by itself, with its own reason, after another one did.
_SECONDS_TO_LEAVE = 10.0
_ALIVE, _STOPPED = "ddit_jax/alive/", "ddit_jax/stopped/"
_DONE = "done"
_BAD_INPUT, _FAILED, _INTERRUPTED = 2, 1, 130
_HUNG = 76


def check_same_settings(settings: Mapping[str, Any]) -> None:
  """Raises unless every process of the job has the same settings.

  Args:
    settings: nested and JSON-able.

  Raises:
    InputError: on a process whose settings differ from the first one's; the
      line names the first setting that does.
    CheckpointError: on the other processes.
  """
  _check_same(
    settings,
    "settings",
    found="was started with",
    way_out="start all processes of a job with the same settings",
  )


def check_same_shapes(digests: Mapping[str, Mapping[str, str]]) -> None:
  """Raises unless every process gives all records the same shapes.

  Otherwise they would feed parts of different batches to one program.

  Args:
    digests: see `TrainingData.shape_digests`.

  Raises:
    InputError: on a process whose digests differ from the first one's.
    CheckpointError: on the other processes.
  """
  _check_same(
    digests,
    "image sizes",
    found="read image sizes with the digest",
    way_out="let all processes of a job read the same files",
  )


def _check_same(
  facts: Mapping[str, Any], name: str, *, found: str, way_out: str
) -> None:
  if jax.process_count() == 1:
    return
  first, mine, error = of_first(facts), json.dumps(facts, sort_keys=True), None
  if json.dumps(first, sort_keys=True) != mine:
    difference = _difference(first, json.loads(mine))
    error = InputError(
      f"process {jax.process_index()} {found} {difference}: {way_out}"
    )
  raise_on_all(error, doing=f"comparing the {name} of all processes")


def of_first(value: Any) -> Any:
  """The JSON-able value that the first process has, on all of them."""
  if jax.process_count() == 1:
    return value
  mine = json.dumps(value, sort_keys=True).encode()
  length = int(multihost_utils.broadcast_one_to_all(np.int32(len(mine))))
  padded = np.frombuffer(mine[:length].ljust(length), np.uint8)
  first = multihost_utils.broadcast_one_to_all(padded).astype(np.uint8)
  return json.loads(first.tobytes())


def _difference(first: dict[str, Any], mine: dict[str, Any]) -> str:
  """The first key with different values, and both of them."""
  first, mine = (
    flatten_dict(one, keep_empty_nodes=True, sep=".") for one in (first, mine)
  )
  key = next(
    key
    for key in sorted({*first, *mine})
    if first.get(key) != mine.get(key) or (key in first) != (key in mine)
  )
  return f"{key} = {mine.get(key)!r}, the first process with {first.get(key)!r}"


@contextlib.contextmanager
def leaving_together(
  *, peer_timeout_seconds: float = 40.0, watchdog: Watchdog = NO_WATCHDOG
) -> Iterator[None]:
  """A block that all processes enter together and that none outlives alone.

  With several processes, one that fails in it, is interrupted, is killed or
  stopped ends all of them, each with one line that names it.

  Args:
    peer_timeout_seconds: a process that said nothing for this long was killed
      or stopped, or its machine is gone.
    watchdog: knows what this process waits for; if that takes too long, the job
      ends with exit code 76.
  """
  if jax.process_count() == 1:
    with watchdog.ending_hangs(_end_hang_alone):
      yield
    return
  client, index = distributed.global_state.client, jax.process_index()
  watch = _Watch(client, index, peer_timeout_seconds, watchdog)
  watch.start()
  try:
    with watchdog.ending_hangs(watch.end_hang):
      yield
  except BaseException as error:
    watch.leave(error)
  watch.finish()


def _end_hang_alone(line: str) -> None:
  _End(line=f"this run {line}", code=_HUNG).exit()


class _Watch(threading.Thread):
  """Says that this process is alive, and ends it when another one is not."""

  def __init__(
    self, client: Any, index: int, timeout: float, watchdog: Watchdog
  ):
    super().__init__(daemon=True)
    self._client, self._index = client, index
    self._timeout, self._watchdog = timeout, watchdog
    self._is_over = threading.Event()

  def run(self) -> None:
    peers: dict[str, _Peer] = {}
    while not self._is_over.wait(_SECONDS_BETWEEN_LOOKS):
      try:
        with _ending_after(self._timeout, _lost("0")):
          end = self._look(peers)
      except jax.errors.JaxRuntimeError:
        end = _lost("0")
      if end and end.lost not in ("", "0"):
        self._leave(end)
      # Another process's reason is often this one's, too.
      elif end and not self._is_over.wait(_SECONDS_TO_LEAVE):
        self._exit(end)

  def finish(self) -> None:
    """Ends the watch after a block that went well."""
    self._is_over.set()
    self._say(_ALIVE, _DONE)

  def leave(self, error: BaseException) -> None:
    """Tells the other processes why this one leaves, and ends it."""
    self._is_over.set()
    with _ending_after(2 * _SECONDS_TO_LEAVE, _lost("0")):
      end = self._end_of(error)
    self._leave(end)

  def end_hang(self, line: str) -> None:
    """Tells the other processes that this one no longer moves, and ends it."""
    end = _End(line=f"process {self._index} {line}", code=_HUNG)
    with (
      _ending_after(2 * _SECONDS_TO_LEAVE, end),
      contextlib.suppress(jax.errors.JaxRuntimeError),
    ):
      line = f"{end.line}{self._waits_of_others()}"
      end = dataclasses.replace(end, line=line)
    self._leave(end)

  def _waits_of_others(self) -> str:
    """What the other processes wait for; who hangs is often among them."""
    waits = {
      key.removeprefix(_ALIVE): sign.split(" ", 1)[1]
      for key, sign in self._signs_of_others().items()
      if sign != _DONE
    }
    different = [n for n in waits if waits[n] != self._watchdog.waits]
    listed = first_few(f"process {n} for {waits[n]}" for n in different)
    return f"; meanwhile waited {listed}" if listed else ""

  def _leave(self, end: "_End") -> None:
    with _ending_after(3 * _SECONDS_TO_LEAVE, end):
      self._say(_STOPPED, f"{end.code} {end.line}")
      if self._index == 0:
        self._wait_for_peers(without=end.lost)
      self._exit(end)

  def _end_of(self, error: BaseException) -> "_End":
    """The line and the exit code of an error."""
    if isinstance(error, KeyboardInterrupt):
      return _End(line="interrupted", code=_INTERRUPTED)
    if isinstance(error, InputError):
      return _End(line=one_line(error), code=_BAD_INPUT)
    # A collective breaks when a process on its other side is gone.
    if lost := self._lost_peer():
      return lost
    traceback.print_exception(error)
    return _End(line=one_line(f"{type(error).__name__}: {error}"), code=_FAILED)

  def _lost_peer(self) -> "_End | None":
    try:
      before = self._signs_of_others()
      time.sleep(3 * _SECONDS_BETWEEN_LOOKS)
      if stopped := self._stopped_peer():
        return stopped
      now = self._signs_of_others()
    except jax.errors.JaxRuntimeError:
      return _lost("0")
    for key, sign in before.items():
      if now[key] == sign != _DONE:
        return _lost(key.removeprefix(_ALIVE))
    return None

  def _stopped_peer(self) -> "_End | None":
    for key, said in self._client.key_value_dir_get(_STOPPED):
      code, line = said.split(" ", 1)
      line = f"process {key.removeprefix(_STOPPED)} stopped: {line}"
      return _End(line=line, code=int(code))
    return None

  def _signs_of_others(self) -> dict[str, str]:
    signs = dict(self._client.key_value_dir_get(_ALIVE))
    signs.pop(f"{_ALIVE}{self._index}", None)
    return signs

  def _wait_for_peers(self, *, without: str) -> None:
    """Waits until the others have left: the keys end with this process."""
    end = time.monotonic() + 2 * _SECONDS_TO_LEAVE
    while time.monotonic() < end:
      signs = self._signs_of_others()
      signs.pop(f"{_ALIVE}{without}", None)
      if all(sign == _DONE for sign in signs.values()):
        return
      time.sleep(_SECONDS_BETWEEN_LOOKS)

  def _look(self, peers: dict[str, "_Peer"]) -> "_End | None":
    """Why this process has to end, if it has to."""
    self._say(_ALIVE, f"{time.time_ns()} {self._watchdog.waits}")
    if stopped := self._stopped_peer():
      return stopped
    now = time.monotonic()
    for key, beat in self._client.key_value_dir_get(_ALIVE):
      if key not in peers or peers[key].beat != beat:
        peers[key] = _Peer(beat, now)
      silence = now - peers[key].since
      if beat != _DONE and silence > self._timeout:
        return _lost(key.removeprefix(_ALIVE))
    return None

  def _say(self, prefix: str, text: str) -> None:
    with contextlib.suppress(jax.errors.JaxRuntimeError):
      self._client.key_value_set(
        f"{prefix}{self._index}", text, allow_overwrite=True
      )

  def _exit(self, end: "_End") -> None:
    self._say(_ALIVE, _DONE)
    end.exit()


@dataclasses.dataclass(frozen=True)
class _Peer:
  """The last sign of life of a process, and when it was first seen."""

  beat: str
  since: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class _End:
  """Why a process ends.

  Attributes:
    line: for people.
    code: exit code.
    lost: number of the process that is gone already, if that is why.
  """

  line: str
  code: int
  lost: str = ""

  def exit(self) -> None:
    """Ends the process at once: an orderly exit would wait for the others."""
    print(f"ddit: {self.line}", file=sys.stderr, flush=True)
    os._exit(self.code)


def _lost(process: str) -> _End:
  line = f"process {process} was killed or stopped, or cannot be reached"
  return _End(line=line, code=_FAILED, lost=process)


@contextlib.contextmanager
def _ending_after(seconds: float, end: _End) -> Iterator[None]:
  """A block that ends the process if it takes longer.

  A call to a coordinator that is stopped returns after minutes.
  """
  timer = threading.Timer(seconds, end.exit)
  timer.daemon = True
  timer.start()
  try:
    yield
  finally:
    timer.cancel()
