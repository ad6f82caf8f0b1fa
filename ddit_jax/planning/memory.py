"""Memory of a compiled program on one device."""

import collections
import dataclasses
import math
import re
from typing import Any

import jax

from ddit_jax.planning.hlo import HloText, slow_arrays, type_bytes

_USED = re.compile(r"Used ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?) hbm", re.I)
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
# What names data, or has it already.
_NO_ARRAYS = (
  "bitcast",
  "constant",
  "copy-start",
  "get-tuple-element",
  "parameter",
  "tuple",
  "while",
  "call",
  "conditional",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Written:
  """An array that a program writes to the device's memory.

  Attributes:
    type: dtype and shape on one device.
    bytes: its size, without padding.
    count: instructions that write one like it, from the same line.
    source: file and line, see `HloText.source`.
  """

  type: str
  bytes: int
  count: int
  source: str


def tree_bytes(tree: Any) -> int:
  """Bytes of a tree of shapes with shardings on one of their devices."""
  return sum(
    math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    for leaf in jax.tree.leaves(tree)
  )


def memory_by_kind(
  compiled: jax.stages.Compiled, arguments: dict[str, int]
) -> dict[str, int] | None:
  """Bytes on one device by kind, which add up to what the program needs.

  Args:
    compiled: the program.
    arguments: kind -> bytes of the program's arguments.

  Returns:
    `arguments`, then "argument_padding" to tiles, "temporaries", "outputs"
    that alias no argument, and "program". None if the compiler does not say.
  """
  analysis = compiled.memory_analysis()
  if analysis is None:
    return None
  given = analysis.argument_size_in_bytes
  outputs = analysis.output_size_in_bytes - analysis.alias_size_in_bytes
  return arguments | {
    "argument_padding": given - sum(arguments.values()),
    "temporaries": analysis.temp_size_in_bytes,
    "outputs": max(outputs, 0),
    "program": analysis.generated_code_size_in_bytes,
  }


def bytes_needed(message: str) -> int | None:
  """What a program that does not fit would use, from the compiler's message."""
  found = _USED.search(message)
  return found and int(float(found[1]) * _UNITS[found[2].upper()])


def largest_written(program: HloText, limit: int = 10) -> list[Written]:
  """The largest arrays that a program writes, alike ones as one."""
  counts = collections.Counter()
  for one in program.schedule:
    line = one.line
    if line.opcode in _NO_ARRAYS or line.opcode.endswith("-done"):
      continue
    for array in slow_arrays(line.type):
      counts[array.partition("{")[0], line] += 1
  ranked = sorted(counts, key=lambda key: type_bytes(key[0]), reverse=True)
  found: dict[tuple[str, str], int] = collections.Counter()
  for text, line in ranked:
    found[text, program.source(line)] += 1
    if len(found) > limit:
      break
  return [
    Written(type=text, bytes=type_bytes(text), count=count, source=source)
    for (text, source), count in list(found.items())[:limit]
  ]
