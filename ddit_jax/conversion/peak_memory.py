"""The most memory this process has held, and the most it may hold."""

import pathlib
import re
import resource
import sys

GIB = 2**30
_STATUS = pathlib.Path("/proc/self/status")


def peak_memory() -> int:
  """Bytes of physical memory at the highest, mapped files included.

  Linux's own record of this program is used where there is one: `getrusage`
  also counts the program that started it.
  """
  if _STATUS.is_file():
    found = re.search(r"VmHWM:\s+(\d+) kB", _STATUS.read_text())
    if found:
      return int(found.group(1)) * 1024
  unit = 1 if sys.platform == "darwin" else 1024
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def memory_bound(largest_array: int) -> int:
  """Bytes that a conversion may hold: never the whole model."""
  return int(2.5 * largest_array) + GIB
