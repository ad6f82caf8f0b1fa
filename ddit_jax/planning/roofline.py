"""Cycles of a program whose compiler was stopped before it estimated them.

An instruction takes as long as its matrix products or as its traffic with the
device's memory, whichever is longer (Williams et al. 2009). Both are what the
program asks for: a fusion that reads one slice of a stacked weight reads no
more, and an array in the chip's fast memory costs nothing.
"""

import dataclasses
import math
import re
from collections.abc import Iterator

from ddit_jax.planning.chips import Chip
from ddit_jax.planning.collectives import holds_collective
from ddit_jax.planning.hlo import (
  Executed,
  HloText,
  Instruction,
  is_product,
  slow_arrays,
  type_arrays,
  type_bytes,
)

# Of the peak, by matrix products, and of the memory's rate. With these the sums
# for the steps of stage1 and stage2_highres on v5p are what their compiler
# estimates, to 2 %; single kinds of work differ by up to a half: docs/scale.md.
_PRODUCT_EFFICIENCY = 0.74
_MEMORY_EFFICIENCY = 0.25
# What has no work of its own: names, transfers under way, loops.
_FREE = (
  "bitcast",
  "call",
  "conditional",
  "constant",
  "custom-call",
  "get-tuple-element",
  "iota",
  "parameter",
  "tuple",
  "while",
)
_UNDER_WAY = ("-start", "-done")
_VIEWS = ("bitcast", "reshape", "get-tuple-element")
_SLICES = ("dynamic-slice", "slice", "gather")
_UPDATES = ("dynamic-update-slice",)
_LABELS = re.compile(r"dim_labels=(\w+)_(\w+)->(\w+)")
_WINDOW = re.compile(r"window=\{([^}]*)\}")
_DIMS = re.compile(r"\[([\d,]*)\]")


def with_cycles(program: HloText, chip: Chip | None) -> HloText:
  """The program with an estimate of cycles at every instruction that works.

  Args:
    program: scheduled.
    chip: its figures.

  Returns:
    A copy. Collectives and custom kernels have no cycles, as the compiler
    gives them none; nothing has any if the clock or the memory's rate is not
    known.
  """
  if chip is None or chip.clock_hz is None or chip.hbm_rate is None:
    return program
  work = _Work(program)
  cycles = {}
  for one in program.schedule:
    seconds = work.seconds(one, chip)
    if seconds:
      cycles[one.line] = max(round(seconds * chip.clock_hz), 1)
  computations = {
    name: [dataclasses.replace(line, cycles=cycles.get(line)) for line in lines]
    for name, lines in program.computations.items()
  }
  return dataclasses.replace(program, computations=computations)


def program_flops(program: HloText) -> int:
  """Operations of all matrix products that a program for TPUs executes.

  Loops count all of their iterations; custom kernels count nothing.
  """
  work = _Work(program)
  return sum(one.runs * work.flops(one) for one in program.schedule)


@dataclasses.dataclass(frozen=True, eq=False)
class _Work:
  """What the instructions of a program compute and move."""

  program: HloText

  def flops(self, one: Executed) -> int:
    """Operations of the products in one run of a line."""
    return sum(
      product_flops(inner, types) for inner, types in self._products(one)
    )

  def seconds(self, one: Executed, chip: Chip) -> float:
    """Of one run of a line."""
    line = one.line
    if line.opcode in _FREE or line.opcode.endswith(_UNDER_WAY):
      return 0.0
    moved = 0
    if not holds_collective(self.program, line):
      moved = self._read(one) + self._written(one)
    return max(
      self.flops(one) / (chip.peak_flops * _PRODUCT_EFFICIENCY),
      moved / (chip.hbm_rate * _MEMORY_EFFICIENCY),
    )

  def _products(self, one: Executed) -> Iterator[tuple[Instruction, dict]]:
    if is_product(one.line):
      yield one.line, one.types
    for computation, line in self.program.inside(one.line):
      if is_product(line):
        yield line, self._types(computation)

  def _types(self, computation: str) -> dict[str, str]:
    lines = self.program.computations[computation]
    return {line.name: line.type for line in lines}

  def _read(self, one: Executed) -> int:
    """Bytes that a line reads from the device's memory."""
    line = one.line
    total = 0
    for index, name in enumerate(line.operands):
      whole = _slow_bytes(one.types[name])
      if whole and line.opcode == "fusion":
        whole = min(whole, self._read_of(line.callees[0], index))
      elif whole and line.opcode in _SLICES + _UPDATES:
        whole = 0 if index else min(whole, _slow_bytes(line.type))
      total += whole
    return total

  def _read_of(self, computation: str, index: int) -> int:
    """Bytes that a fusion reads of one of its parameters."""
    lines = self.program.computations[computation]
    parameter = next(
      line
      for line in lines
      if line.opcode == "parameter" and line.rest.startswith(f"{index})")
    )
    return self._used(computation, parameter)

  def _used(self, computation: str, value: Instruction) -> int:
    """Bytes of a value that the rest of its computation asks for."""
    whole = type_bytes(value.type)
    asked = 0
    for line in self.program.computations[computation]:
      for index, name in enumerate(line.operands):
        if name != value.name:
          continue
        if line.opcode in _VIEWS:
          asked += self._used(computation, line)
        elif line.opcode in _SLICES and index == 0:
          asked += type_bytes(line.type)
        elif line.opcode == "fusion":
          asked += self._read_of(line.callees[0], index)
        elif line.opcode not in _UPDATES or index:
          asked += whole
    return min(whole, asked)

  def _written(self, one: Executed) -> int:
    """Bytes that a line writes to the device's memory."""
    line = one.line
    if line.opcode == "fusion":
      asked = self._results(line.callees[0])
    else:
      asked = [_result(line, one.types)]
    arrays = type_arrays(line.type)
    if len(asked) != len(arrays):
      return sum(map(_slow_bytes, arrays))
    return sum(
      min(_slow_bytes(array), size)
      for array, size in zip(arrays, asked, strict=True)
    )

  def _results(self, computation: str) -> list[int]:
    """Bytes that a fusion writes of each of its results."""
    lines = {line.name: line for line in self.program.computations[computation]}
    root = next(line for line in lines.values() if line.is_root)
    names = root.operands if root.opcode == "tuple" else [root.name]
    found = []
    for name in names:
      line = lines[name]
      while line.opcode in _VIEWS:
        line = lines[line.operands[0]]
      if line.opcode == "fusion":
        found += self._results(line.callees[0])
      else:
        found.append(_result(line, self._types(computation)))
    return found


def _result(line: Instruction, types: dict[str, str]) -> int:
  """Bytes that an instruction writes: of an update in place, the update."""
  if line.opcode in _UPDATES:
    return type_bytes(types[line.operands[1]])
  return type_bytes(line.type)


def product_flops(line: Instruction, types: dict[str, str]) -> int:
  """Operations of a matrix product that is written as a convolution.

  A TPU's compiler writes batch dimensions as windows of which most elements
  are holes or padding: those count nothing.

  Args:
    line: the product.
    types: name -> type of the instructions of its computation.
  """
  labels = _LABELS.search(line.rest)
  if labels is None:
    raise ValueError(f"{line.name} is no convolution with dim_labels")
  inputs, kernel = (_dims(types[name]) for name in line.operands[:2])
  of = {
    "input": dict(zip(labels[1], inputs, strict=True)),
    "kernel": dict(zip(labels[2], kernel, strict=True)),
    "output": dict(zip(labels[3], _dims(line.type), strict=True)),
  }
  window = _window(line.rest)
  pairs = math.prod(
    _pairs(of["input"][d], of["output"][d], index, window)
    for index, d in enumerate(sorted(set(labels[1]) - {"b", "f"}))
  )
  output = of["output"]["b"] * of["output"]["f"]
  return 2 * output * of["kernel"]["i"] * pairs


def _pairs(size: int, outputs: int, index: int, window) -> int:
  """Pairs of an output and an element under its window, in one dimension."""
  width = window["size"][index]
  low = window["pad"][index][0]
  stride, hole = window["stride"][index], window["lhs_dilate"][index]
  step = window["rhs_dilate"][index]
  return sum(
    0 <= (at := o * stride + w * step - low) <= (size - 1) * hole
    and at % hole == 0
    for o in range(outputs)
    for w in range(width)
  )


def _window(rest: str) -> dict[str, list]:
  """Attributes of a window by dimension, with their defaults."""
  found = _WINDOW.search(rest)
  given = dict(item.split("=") for item in found[1].split()) if found else {}
  sizes = [int(size) for size in given.get("size", "").split("x") if size]
  window = {"size": sizes, "pad": [(0, 0)] * len(sizes)}
  for name in ("stride", "lhs_dilate", "rhs_dilate"):
    values = given.get(name)
    window[name] = (
      [int(x) for x in values.split("x")] if values else [1] * len(sizes)
    )
  if "pad" in given:
    window["pad"] = [
      tuple(int(x) for x in pad.split("_")) for pad in given["pad"].split("x")
    ]
  return window


def _dims(type_text: str) -> list[int]:
  return [int(size) for size in _DIMS.search(type_text)[1].split(",") if size]


def _slow_bytes(type_text: str) -> int:
  return sum(map(type_bytes, slow_arrays(type_text)))
