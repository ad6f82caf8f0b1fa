"""A running job's news, from the batcher's thread to one reader."""

import concurrent.futures
import contextlib
import queue
import threading
from collections.abc import Iterator

# Seconds after which a reader is woken without news, so that it can leave.
_WAKE_EVERY = 1.0


class Watch:
  """Wakes the reader of a job when its rows have changed."""

  def __init__(self):
    self._news: queue.Queue[None] = queue.Queue(1)
    self._is_gone = threading.Event()

  def tell(self) -> bool:
    """Wakes the reader; False once it has gone."""
    # A reader that is slow finds only the newest state.
    with contextlib.suppress(queue.Full):
      self._news.put_nowait(None)
    return not self._is_gone.is_set()

  def follow(self, future: concurrent.futures.Future) -> Iterator[None]:
    """Yields at once, and at news until the job ends.

    Closed early, nobody wants the job.

    Raises:
      Exception: what the job raised.
    """
    future.add_done_callback(lambda _: self.tell())
    try:
      yield
      while not future.done():
        with contextlib.suppress(queue.Empty):
          self._news.get(timeout=_WAKE_EVERY)
        yield
    finally:
      self._is_gone.set()
      future.cancel()
    future.result()
