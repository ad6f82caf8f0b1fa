"""TensorBoard's event files, written without a thread of their own."""

import pathlib
import time

import numpy as np


class EventFile:
  """One event file; every call is on disk, or raises, when it returns.

  `tensorboardX.SummaryWriter` writes from a thread. When the disk is full that
  thread dies, and whoever waits for room in its queue waits for ever.

  Args:
    folder: of all event files; created if absent.
    purge_step: TensorBoard hides earlier files' events from this step on.

  Raises:
    OSError: here and in all methods, when the file cannot be written.
  """

  def __init__(self, folder: pathlib.Path, *, purge_step: int | None = None):
    # Imported here because it imports PyTorch, 4 s, wherever that is installed.
    from tensorboardX import event_file_writer, summary
    from tensorboardX.proto import event_pb2

    self._summary, self._protocol = summary, event_pb2
    folder.mkdir(parents=True, exist_ok=True)
    # File names have the resolution of a second. Without a unique number, a
    # second file in one second would overwrite the first.
    number = len(list(folder.iterdir()))
    self._file = event_file_writer.EventsWriter(
      str(folder / "events"), f".{number}"
    )
    if purge_step is not None:
      start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
      self._add(step=purge_step, wall_time=time.time(), session_log=start)
    self._file.flush()

  def add_scalars(
    self, step: int, scalars: dict[str, float], wall_time: float
  ) -> None:
    """Adds numbers by name; `wall_time` is in seconds since 1970."""
    for name, value in scalars.items():
      added = self._summary.scalar(name, value)
      self._add(step=step, wall_time=wall_time, summary=added)
    self._file.flush()

  def add_image(self, step: int, name: str, image: np.ndarray) -> None:
    """Adds one image, uint8 [height, width, 1 or 3 channels]."""
    added = self._summary.image(name, image, dataformats="HWC")
    self._add(step=step, wall_time=time.time(), summary=added)
    self._file.flush()

  def close(self) -> None:
    self._file.close()

  def _add(self, **fields: object) -> None:
    self._file.write_event(self._protocol.Event(**fields))
