"""A small cache that several threads share."""

import collections
import threading
from collections.abc import Callable, Hashable
from typing import Any


class RecentValues:
  """Keeps the values used last; a value is made once for all threads."""

  def __init__(self, make: Callable[[Hashable], Any], *, capacity: int):
    """Args are the function that makes a key's value, and how many to keep."""
    self._make, self._capacity = make, capacity
    self._lock = threading.Lock()
    self._slots: collections.OrderedDict = collections.OrderedDict()

  def __getitem__(self, key: Hashable) -> Any:
    """The key's value; what `make` raises is not kept."""
    with self._lock:
      slot = self._slots.setdefault(key, _Slot())
      self._slots.move_to_end(key)
      while len(self._slots) > self._capacity:
        self._slots.popitem(last=False)
    # Threads that want other keys are not held up while this one is made.
    with slot.lock:
      if not slot.is_made:
        slot.value, slot.is_made = self._make(key), True
      return slot.value


class _Slot:
  def __init__(self):
    self.lock, self.is_made, self.value = threading.Lock(), False, None
