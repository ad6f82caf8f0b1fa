"""The bound, and that the peak is a peak."""

import subprocess
import sys

from ddit_jax.conversion.peak_memory import GIB, memory_bound, peak_memory

# In a process of its own, whose peak no other test has raised.
PROGRAM = """
from ddit_jax.conversion.peak_memory import peak_memory
before = peak_memory()
block = b"x" * (before + 2**26)
del block
print(before, peak_memory())
"""


def test_bound():
  assert memory_bound(0) == GIB
  assert memory_bound(2 * GIB) == 6 * GIB


def test_peak_remembers_what_was_freed():
  assert 10 * 2**20 < peak_memory() < 2**40
  command = [sys.executable, "-c", PROGRAM]
  printed = subprocess.run(command, capture_output=True, check=True).stdout
  before, after = map(int, printed.split())
  assert 2**20 < before
  # The interpreter itself is in both.
  assert before + 2**26 <= after < 2 * before + 2**26 + 2**24
