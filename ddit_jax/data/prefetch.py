"""Moves host batches onto the mesh ahead of the step that needs them."""

import queue
import threading

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from ddit_jax.sharding.rules import partition_spec

_DEPTH = 2


def to_mesh(batch, mesh: Mesh):
  """This process's rows to global arrays, split over the batch's mesh axes."""

  def place(rows):
    spec = partition_spec("batch", *(None,) * (rows.ndim - 1))
    sharding = NamedSharding(mesh, spec)
    return jax.make_array_from_process_local_data(sharding, rows)

  return jax.tree.map(place, batch)


def from_mesh(batch):
  """This process's rows of global arrays, split by rows: undoes `to_mesh`."""

  def rows(array):
    parts = {
      shard.index[0].start or 0: shard.data
      for shard in array.addressable_shards
    }
    return np.concatenate([np.asarray(parts[start]) for start in sorted(parts)])

  return jax.tree.map(rows, batch)


def rows_of_process(mesh: Mesh, batch_size: int) -> list[int]:
  """The rows of a global batch on this process's devices, in order.

  Processes whose devices hold the same rows (tensor parallelism across
  processes) read the same ones.
  """
  sharding = NamedSharding(mesh, partition_spec("batch"))
  places = sharding.addressable_devices_indices_map((batch_size,)).values()
  found = {
    row for (place,) in places for row in range(*place.indices(batch_size))
  }
  return sorted(found)


class DeviceFeed:
  """An iterator of (batch on the mesh, data position after it).

  A thread stays `_DEPTH` batches ahead. The position belongs to the batch, so
  batches that were prepared but never used are not counted as read.
  """

  def __init__(self, loader, mesh: Mesh):
    self._loader = loader
    self._mesh = mesh
    self._queue: queue.Queue = queue.Queue(maxsize=_DEPTH)
    self._is_closed = threading.Event()
    self._thread = threading.Thread(target=self._fill, daemon=True)
    self._thread.start()

  def __next__(self):
    item = self._queue.get()
    if isinstance(item, BaseException):
      # The thread has ended: the next call must not wait for it.
      self._queue.put(item)
      raise item
    return item

  def close(self) -> None:
    """Stops the thread and the loader."""
    self._is_closed.set()
    while self._thread.is_alive():
      # The thread may be waiting for space in the queue.
      while not self._queue.empty():
        self._queue.get_nowait()
      self._thread.join(timeout=0.05)
    self._loader.close()

  def _fill(self) -> None:
    while not self._is_closed.is_set():
      try:
        batch, position = next(self._loader)
        item = (to_mesh(batch, self._mesh), position)
      except BaseException as error:
        item = error
      self._queue.put(item)
      if isinstance(item, BaseException):
        return
