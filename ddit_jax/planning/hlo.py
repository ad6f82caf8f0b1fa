"""Compiled programs, read from their HLO text."""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator

_HEADER = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\) -> .*\{$")
# A computation's last line.
_END = re.compile(r"^\}(, execution_thread=.*)?$")
_INSTRUCTION = re.compile(
  r"^\s+(?P<root>ROOT )?%?(?P<name>[\w.-]+) = (?P<type>.*?) "
  r"(?P<opcode>[a-z][\w-]*)\((?P<operands>.*)$"
)
_CALLEES = re.compile(
  r"\b(?:calls|body|to_apply|branch_computations|called_computations|"
  r"true_computation|false_computation)=(\{[^}]*\}|%?[\w.-]+)"
)
_ARRAY = re.compile(r"\b([a-z]+\d*\w*)\[([\d,]*)\]")
# One with its layout, and in that the mark of the chip's own fast memory.
_PLACED = re.compile(r"[a-z]+\d*\w*\[[\d,]*\](?:\{[^}]*\})?")
_FAST_MEMORY = re.compile(r"S\(\d+\)")
_BITS_OF = {"pred": 8, "token": 0}
_BITS = re.compile(r"\d+")
_KNOWN_TRIPS = re.compile(r"known_trip_count\D+(\d+)")
_CONDITION = re.compile(r"condition=%?([\w.-]+)")
_INDEX = re.compile(r"index=(\d+)")
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_FRAME = re.compile(r"stack_frame_id=(\d+)")
_CALLING = ("while", "call", "conditional")
# The tables of source lines, between the header and the first computation.
_TABLE = re.compile(r"^(FileNames|FunctionNames|FileLocations|StackFrames)$")
_NUMBER = re.compile(r"=(\d+)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Instruction:
  """One line of a computation.

  Attributes:
    name: without the percent sign.
    type: of the result, as written: an array or a tuple in parentheses.
    opcode: "all-gather", "fusion", ...
    rest: operands and attributes, as written.
    is_root: whether it is its computation's result.
    cycles: an estimate for one run; None where there is none.
  """

  name: str
  type: str
  opcode: str
  rest: str
  is_root: bool = False
  cycles: int | None = None

  @property
  def operands(self) -> list[str]:
    """Names of the operands."""
    return re.findall(r"%([\w.-]+)", self.rest.split(")", 1)[0])

  @property
  def callees(self) -> list[str]:
    """Names of the computations it calls, except a loop's condition."""
    if self.opcode != "call" and "to_apply=" in self.rest:
      # The scalar function of a reduction contains no collectives.
      return []
    found = " ".join(_CALLEES.findall(self.rest))
    return re.findall(r"[\w.-]+", found)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Frame:
  """A line of Python that an instruction comes from."""

  file: str
  function: str
  line: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Executed:
  """One line of the schedule, as often as the program runs it.

  Attributes:
    line: the instruction.
    chain: names of the loops and calls around it, outermost first.
    runs: how often it is executed; in a loop, once per iteration.
    types: name -> type of all instructions of its computation.
  """

  line: Instruction
  chain: tuple[str, ...]
  runs: int
  types: dict[str, str]


@dataclasses.dataclass(frozen=True, eq=False)
class HloText:
  """All computations of one program.

  Attributes:
    computations: name -> its instructions, in order.
    entry: name of the computation where the program starts.
    tables: name of a table of source lines -> number -> its row.
  """

  computations: dict[str, list[Instruction]]
  entry: str
  tables: dict[str, dict[int, str]] = dataclasses.field(default_factory=dict)

  @classmethod
  def parse(cls, text: str) -> "HloText":
    """Parses the text of `Compiled.as_text()`.

    Raises:
      ValueError: the text has no entry computation.
    """
    computations, tables = {}, {}
    entry = current = table = None
    for line in _whole_lines(text):
      if header := _HEADER.match(line):
        current = computations.setdefault(header[2], [])
        entry = header[2] if header[1] else entry
      elif line.startswith("}"):
        current = None
      elif current is not None and (found := _INSTRUCTION.match(line)):
        current.append(_instruction(found))
      elif _TABLE.match(line):
        table = tables.setdefault(line, {})
      elif current is None and table is not None and line[:1].isdigit():
        number, _, row = line.partition(" ")
        table[int(number)] = row.strip('"')
    if entry is None:
      raise ValueError("the text has no ENTRY computation: it is not HLO text")
    return cls(computations, entry, tables)

  def trip_count(self, loop: Instruction) -> int | None:
    """Iterations of a `while` instruction; None if unknown.

    Either the compiler annotates it, or the condition compares a counter that
    starts at zero, as in `jax.lax.scan`, with a constant. Loops that the
    compiler makes of a product and a gather may count in twos.
    """
    if known := _KNOWN_TRIPS.search(loop.rest):
      return int(known[1])
    condition = _CONDITION.search(loop.rest)
    lines = list(self.computations[condition[1]])
    for line in tuple(lines):
      for callee in line.callees:
        lines += self.computations[callee]
    limits = [value for line in lines if (value := _integer(line)) is not None]
    compares = [line.rest for line in lines if line.opcode == "compare"]
    is_counter = len(compares) == 1 and "direction=LT" in compares[0]
    if not is_counter or len(limits) != 1:
      return None
    counters = [line for line in lines if line.opcode == "get-tuple-element"]
    step = 1
    if len(counters) == 1:
      step = self._step(loop, int(_INDEX.search(counters[0].rest)[1]))
    return math.ceil(limits[0] / step)

  def _step(self, loop: Instruction, index: int) -> int:
    """What the body adds to one of its values; 1 if it does not say so."""
    (body,) = loop.callees
    lines = {line.name: line for line in self.computations[body]}
    root = next(line for line in lines.values() if line.is_root)
    if root.opcode != "tuple" or index >= len(root.operands):
      return 1
    new = lines[root.operands[index]]
    while new.opcode == "copy":
      new = lines[new.operands[0]]
    if new.opcode != "add":
      return 1
    added = [_integer(lines[name]) for name in new.operands]
    return next((value for value in added if value is not None), 1)

  @functools.cached_property
  def has_cycles(self) -> bool:
    """Whether the compiler estimated cycles, as that of TPUs does."""
    return any(one.line.cycles for one in self.schedule)

  @functools.cached_property
  def schedule(self) -> list[Executed]:
    """What the program executes, in order; a fusion is one line.

    The bodies of loops follow their `while`; the branches of a conditional
    are all listed, which is an upper bound. A loop of unknown length counts
    once, see `unknown_loops`.
    """
    return list(self._visit(self.entry, (), 1))

  def _visit(
    self, name: str, chain: tuple[str, ...], runs: int
  ) -> Iterator[Executed]:
    lines = self.computations[name]
    types = {line.name: line.type for line in lines}
    for line in lines:
      yield Executed(line=line, chain=chain, runs=runs, types=types)
      if line.opcode in _CALLING:
        trips = 1
        if line.opcode == "while":
          trips = self.trip_count(line) or 1
        for callee in line.callees:
          yield from self._visit(callee, (*chain, line.name), runs * trips)

  @property
  def unknown_loops(self) -> int:
    """Executed loops of unknown length."""
    return sum(
      self.trip_count(one.line) is None
      for one in self.schedule
      if one.line.opcode == "while"
    )

  def inside(self, line: Instruction) -> Iterator[tuple[str, Instruction]]:
    """(computation, instruction) of all that a fusion or async call holds.

    Loops and calls hold nothing: their lines are in the schedule.
    """
    for callee in () if line.opcode in _CALLING else line.callees:
      for inner in self.computations.get(callee, ()):
        yield callee, inner
        yield from self.inside(inner)

  def frames(self, line: Instruction) -> list[_Frame]:
    """The lines of Python that wrote an instruction, innermost first."""
    found, frames = _FRAME.search(line.rest), []
    number = int(found[1]) if found and self.tables else 0
    while row := self.tables.get("StackFrames", {}).get(number):
      location, parent = map(int, _NUMBER.findall(row))
      file, function, at = map(
        int, _NUMBER.findall(self.tables["FileLocations"][location])[:3]
      )
      frames.append(
        _Frame(
          file=self.tables["FileNames"][file],
          function=self.tables["FunctionNames"][function],
          line=at,
        )
      )
      # A parent is written as its number plus one; a root names itself.
      number = parent - 1 if parent - 1 < number else 0
    return frames

  def source(self, line: Instruction) -> str:
    """ "ddit_jax/losses/dual.py:146", the innermost line of this package.

    Of a fusion without a line of its own it is that of its contents; "" if
    the compiler knows none.
    """
    lines = [line, *(inner for _, inner in self.inside(line))]
    for one in lines:
      for frame in self.frames(one):
        _, package, tail = frame.file.rpartition("ddit_jax/")
        if package:
          return f"{package}{tail}:{frame.line}"
    return ""


def _whole_lines(text: str) -> Iterator[str]:
  """Lines, with those that an attribute of a custom kernel breaks joined."""
  held = ""
  for line in text.splitlines():
    if held and line[:1] in ('"', "}") and not _END.match(line):
      held += line
      continue
    if held:
      yield held
    held = line if line[:1] == " " else ""
    if not held:
      yield line
  if held:
    yield held


def _instruction(found: re.Match) -> Instruction:
  cycles = _CYCLES.search(found["operands"])
  return Instruction(
    name=found["name"],
    type=found["type"],
    opcode=found["opcode"],
    rest=found["operands"],
    is_root=found["root"] is not None,
    cycles=int(cycles[1]) if cycles else None,
  )


def _integer(line: Instruction) -> int | None:
  """The value of a constant that is one integer."""
  if line.opcode != "constant" or not line.type.startswith(("s32[]", "u32[]")):
    return None
  return int(line.rest.split(")", 1)[0])


def is_product(line: Instruction) -> bool:
  """A matrix product; a TPU's compiler makes a convolution of each."""
  return line.opcode in ("dot", "convolution")


def is_kernel(line: Instruction) -> bool:
  """Whether it is a Pallas kernel, whose cycles the compiler does not know."""
  return line.opcode == "custom-call" and "tpu_custom_call" in line.rest


def type_arrays(type_text: str) -> list[str]:
  """The arrays of a type, each as written with its layout."""
  return _PLACED.findall(type_text)


def slow_arrays(type_text: str) -> list[str]:
  """Those of `type_arrays` that lie in the device's memory.

  The others lie in the chip's own fast memory.
  """
  arrays = type_arrays(type_text)
  return [array for array in arrays if not _FAST_MEMORY.search(array)]


def type_bytes(type_text: str) -> int:
  """Bytes of an array type or of all arrays in a tuple type.

  Raises:
    ValueError: an unknown type.
  """
  return sum(
    math.ceil(_bits(name) * math.prod(map(int, dims.split(","))) / 8)
    if dims
    else math.ceil(_bits(name) / 8)
    for name, dims in _ARRAY.findall(type_text)
  )


def _bits(name: str) -> int:
  """ "bf16" -> 16, "f8e4m3fn" -> 8, "pred" -> 8, "token" (no data) -> 0."""
  if name in _BITS_OF:
    return _BITS_OF[name]
  found = _BITS.search(name)
  if not found:
    raise ValueError(f"the size of the HLO type {name!r} is not known")
  return int(found[0])
