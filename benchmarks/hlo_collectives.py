"""Collective communication of a compiled program, read from its HLO text."""

import dataclasses
import math
import re

KINDS = (
  "all-gather",
  "reduce-scatter",
  "all-reduce",
  "all-to-all",
  "collective-permute",
)
_CHANNEL = re.compile(r"channel_id=(\d+)")
# How the TPU compiler names an all-reduce of which each device keeps a slice.
_REDUCE_SCATTER_NAME = "all-reduce-scatter"

_HEADER = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\) -> .*\{$")
_INSTRUCTION = re.compile(
  r"^\s+(?P<root>ROOT )?%?(?P<name>[\w.-]+) = (?P<type>.*?) "
  r"(?P<opcode>[a-z][\w-]*)\((?P<operands>.*)$"
)
_CALLEES = re.compile(
  r"\b(?:calls|body|to_apply|branch_computations|called_computations|"
  r"true_computation|false_computation)=(\{[^}]*\}|%?[\w.-]+)"
)
_ARRAY = re.compile(r"\b([a-z]+\d*\w*)\[([\d,]*)\]")
_BITS = re.compile(r"\d+")
_KNOWN_TRIPS = re.compile(r"known_trip_count\D+(\d+)")
_CONDITION = re.compile(r"condition=%?([\w.-]+)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Instruction:
  """One line of a computation.

  Attributes:
    name: without the percent sign.
    type: of the result, as written: an array or a tuple in parentheses.
    opcode: "all-gather", "fusion", ...
    rest: operands and attributes, as written.
    is_root: whether it is the computation's result.
  """

  name: str
  type: str
  opcode: str
  rest: str
  is_root: bool

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


@dataclasses.dataclass(frozen=True)
class HloText:
  """All computations of one program.

  Attributes:
    computations: name -> its instructions, in order.
    entry: name of the computation where the program starts.
  """

  computations: dict[str, list[Instruction]]
  entry: str

  @classmethod
  def parse(cls, text: str) -> "HloText":
    """Parses the text of `Compiled.as_text()`.

    Raises:
      ValueError: the text has no entry computation.
    """
    computations, entry, current = {}, None, None
    for line in text.splitlines():
      if header := _HEADER.match(line):
        current = computations.setdefault(header[2], [])
        entry = header[2] if header[1] else entry
      elif line.startswith("}"):
        current = None
      elif current is not None and (found := _INSTRUCTION.match(line)):
        current.append(
          Instruction(
            name=found["name"],
            type=found["type"],
            opcode=found["opcode"],
            rest=found["operands"],
            is_root=bool(found["root"]),
          )
        )
    if entry is None:
      raise ValueError("the text has no ENTRY computation: it is not HLO text")
    return cls(computations, entry)

  def trip_count(self, loop: Instruction) -> int | None:
    """Iterations of a `while` instruction; None if unknown.

    Either the compiler annotates it, or the condition compares a counter that
    starts at zero, as in `jax.lax.scan`, with a constant.
    """
    if known := _KNOWN_TRIPS.search(loop.rest):
      return int(known[1])
    condition = _CONDITION.search(loop.rest)
    lines = list(self.computations[condition[1]])
    for line in tuple(lines):
      for callee in line.callees:
        lines += self.computations[callee]
    limits = [
      int(line.rest.split(")", 1)[0])
      for line in lines
      if line.opcode == "constant" and line.type.startswith("s32[]")
    ]
    compares = [line.rest for line in lines if line.opcode == "compare"]
    is_counter = len(compares) == 1 and "direction=LT" in compares[0]
    return limits[0] if is_counter and len(limits) == 1 else None


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
  """ "bf16" -> 16, "f8e4m3fn" -> 8, "pred" -> 8."""
  if name == "pred":
    return 8
  found = _BITS.search(name)
  if not found:
    raise ValueError(f"the size of the HLO type {name!r} is not known")
  return int(found[0])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Traffic:
  """All collectives of one kind in one run of the program.

  Attributes:
    instructions: number in the program.
    runs: number executed; in a loop, once per iteration.
    bytes: of the whole arrays, in all runs: the output of a gather, the input
      of a reduction. A device sends and receives about as much, twice as much
      for an all-reduce.
  """

  instructions: int
  runs: int
  bytes: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Collectives:
  """The communication of one program.

  Attributes:
    by_kind: a name of `KINDS` -> its traffic, for kinds that occur.
    unknown_loops: loops of unknown length; their bodies count once.
  """

  by_kind: dict[str, Traffic]
  unknown_loops: int


@dataclasses.dataclass(frozen=True)
class _Found:
  kind: str
  key: str
  bytes: int
  runs: int


def hlo_collectives(text: str) -> Collectives:
  """Counts the collectives of a program by kind.

  An asynchronous collective that the compiler split into steps, to overlap it
  with other work, counts once: its steps share a channel.

  Args:
    text: the output of `Compiled.as_text()`.

  Raises:
    ValueError: it is not HLO text.
  """
  program = HloText.parse(text)
  found: dict[tuple[str, str], _Found] = {}
  unknown: set[str] = set()

  def visit(computation: str, runs: int) -> None:
    lines = program.computations[computation]
    types = {line.name: line.type for line in lines}
    for line in lines:
      if (kind := _kind(line, computation)) is not None:
        one = _Found(kind, _key(line), _payload(line, types), runs)
        seen = found.setdefault((kind, one.key), one)
        if one.runs > seen.runs:
          found[kind, one.key] = one
      num_trips = 1
      if line.opcode == "while":
        num_trips = program.trip_count(line)
        if num_trips is None:
          unknown.add(line.name)
          num_trips = 1
      for callee in line.callees:
        visit(callee, runs * num_trips)

  visit(program.entry, 1)
  return Collectives(
    by_kind=_sums(list(found.values())), unknown_loops=len(unknown)
  )


def _sums(found: list[_Found]) -> dict[str, Traffic]:
  return {
    kind: Traffic(
      instructions=len(ones),
      runs=sum(one.runs for one in ones),
      bytes=sum(one.runs * one.bytes for one in ones),
    )
    for kind in KINDS
    if (ones := [one for one in found if one.kind == kind])
  }


def _kind(line: Instruction, computation: str) -> str | None:
  kind = line.opcode.removesuffix("-start")
  if kind not in KINDS:
    return None
  if kind == "all-reduce" and computation.startswith(_REDUCE_SCATTER_NAME):
    return "reduce-scatter"
  return kind


def _key(line: Instruction) -> str:
  """Equal for the steps of one collective, which share a channel."""
  channel = _CHANNEL.search(line.rest)
  return f"channel {channel[1]}" if channel else line.name


def _payload(line: Instruction, types: dict[str, str]) -> int:
  """Bytes of the larger of operands and result."""
  given = sum(type_bytes(types[name]) for name in line.operands)
  result = type_bytes(line.type)
  if line.opcode in ("all-gather-start", "collective-permute-start"):
    # Their result contains the operand too.
    result -= given
  return max(given, result)
