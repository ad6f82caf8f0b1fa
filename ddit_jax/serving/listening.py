"""A server at an address, until a signal ends it."""

import contextlib
import threading
from types import FrameType
from typing import Any, Protocol

import uvicorn

from ddit_jax.serving.batcher import Batcher


class _Served(Protocol):
  """What is served.

  Attributes:
    batcher: its queue.
  """

  batcher: Batcher

  def app(self) -> Any:
    """An ASGI application."""


class Listener(uvicorn.Server):
  """uvicorn, whose end does not wait for the queue.

  It tells the application of its end only when every request has its answer, so
  the queue is closed before: waiting requests get an error at once.

  Args:
    server: the routes and their queue.
    host: address to listen at.
    port: to listen at.
    grace: seconds that requests may take after a signal; None for any.
  """

  def __init__(
    self, server: _Served, host: str, port: int, grace: int | None = None
  ):
    super().__init__(
      uvicorn.Config(
        server.app(),
        host=host,
        port=port,
        log_level="warning",
        timeout_graceful_shutdown=grace,
      )
    )
    self._batcher = server.batcher

  def handle_exit(self, sig: int, frame: FrameType | None) -> None:
    """What a signal calls; the call that runs is not waited for here."""
    threading.Thread(target=self._batcher.close, daemon=True).start()
    super().handle_exit(sig, frame)


def listen(
  server: _Served, host: str, port: int, grace: int | None = None
) -> int:
  """Serves until a signal; the exit code. Arguments as of `Listener`."""
  listener = Listener(server, host, port, grace)
  # uvicorn exits by itself if it cannot listen, with a code of its own.
  with contextlib.suppress(KeyboardInterrupt, SystemExit):
    listener.run()
  # Not every application closes its queue, nor does one that never started.
  server.batcher.close()
  return 0 if listener.started else 1
