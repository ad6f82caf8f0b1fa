"""A server at an address, until a signal ends it."""

import contextlib
import threading
from types import FrameType

import uvicorn

from ddit_jax.serving.app import Server


class Listener(uvicorn.Server):
  """uvicorn, whose end does not wait for the queue.

  It tells the application of its end only when every request has its answer, so
  the queue is closed before: waiting requests get an error at once.

  Args:
    server: the routes and their queue.
    host: address to listen at.
    port: to listen at.
  """

  def __init__(self, server: Server, host: str, port: int):
    super().__init__(
      uvicorn.Config(server.app(), host=host, port=port, log_level="warning")
    )
    self._batcher = server.batcher

  def handle_exit(self, sig: int, frame: FrameType | None) -> None:
    """What a signal calls; the call that runs is not waited for here."""
    threading.Thread(target=self._batcher.close, daemon=True).start()
    super().handle_exit(sig, frame)


def listen(server: Server, host: str, port: int) -> int:
  """Serves until a signal; the exit code."""
  listener = Listener(server, host, port)
  # It repeats the signal at its end, and exits if it cannot listen.
  with contextlib.suppress(KeyboardInterrupt, SystemExit):
    listener.run()
  return 0 if listener.started else 1
