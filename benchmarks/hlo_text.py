"""A compiled program's HLO text as computations and instructions."""

import dataclasses
import math
import re

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
    """Names of the computations that it runs; not a loop's condition."""
    if self.opcode != "call" and "to_apply=" in self.rest:
      # What a reduction applies to numbers runs no collectives.
      return []
    found = " ".join(_CALLEES.findall(self.rest))
    return re.findall(r"[\w.-]+", found)


@dataclasses.dataclass(frozen=True)
class HloText:
  """All computations of one program.

  Attributes:
    computations: name -> its instructions, in order.
    entry: where the program starts.
  """

  computations: dict[str, list[Instruction]]
  entry: str

  @classmethod
  def parse(cls, text: str) -> "HloText":
    """Reads what `Compiled.as_text()` gives.

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
    """How often a `while` instruction's body runs; None if it is not known.

    Either the compiler says so, or the condition compares a counter, which
    starts at zero as in `jax.lax.scan`, with a constant.
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
    ValueError: a type whose size is not in its name.
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
