"""An application behind HTTP, and its end."""

import socket

import pytest

from ddit_jax.serving.batcher import Batcher, BusyError

listening = pytest.importorskip("ddit_jax.serving.listening")


class Plain:
  """An application that does not close its queue by itself."""

  def __init__(self):
    self.batcher = Batcher(
      lambda group, rows: rows, batch_size=1, max_waiting=1
    )

  def app(self):
    async def application(scope, receive, send):
      assert scope["type"] != "lifespan"

    return application


def test_a_taken_port_leaves_no_open_queue():
  server = Plain()
  with socket.socket() as taken:
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    port = taken.getsockname()[1]
    assert listening.listen(server, "127.0.0.1", port) == 1
  with pytest.raises(BusyError, match="shutting down"):
    server.batcher.submit("a", [1])
