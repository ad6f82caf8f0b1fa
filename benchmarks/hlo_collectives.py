"""What a compiled program sends between devices, read from its HLO text."""

import dataclasses
import re

from hlo_text import HloText, Instruction, type_bytes

KINDS = (
  "all-gather",
  "reduce-scatter",
  "all-reduce",
  "all-to-all",
  "collective-permute",
)
_CHANNEL = re.compile(r"channel_id=(\d+)")
# TPUs name an all-reduce of which every device keeps a slice so.
_REDUCE_SCATTER_NAME = "all-reduce-scatter"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Traffic:
  """All collectives of one kind in one run of the program.

  Attributes:
    instructions: how many the program holds.
    runs: how many are run, those in loops as often as the loop turns.
    bytes: of the whole arrays, in all runs: of a gather what comes out, of a
      reduction what goes in. A device sends and receives about as much, twice
      as much for an all-reduce.
  """

  instructions: int
  runs: int
  bytes: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Collectives:
  """The communication of one program.

  Attributes:
    by_kind: a name of `KINDS` -> its traffic, of the kinds that occur.
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

  An asynchronous collective that the compiler cut into steps, to run between
  other work, counts once: its steps share a channel.

  Args:
    text: what `Compiled.as_text()` gives.

  Raises:
    ValueError: it is no HLO text.
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
      turns = 1
      if line.opcode == "while":
        turns = program.trip_count(line)
        if turns is None:
          unknown.add(line.name)
          turns = 1
      for callee in line.callees:
        visit(callee, runs * turns)

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
  """The steps of one collective share it; without a channel it stands alone."""
  channel = _CHANNEL.search(line.rest)
  return f"channel {channel[1]}" if channel else line.name


def _payload(line: Instruction, types: dict[str, str]) -> int:
  """Bytes of the larger side."""
  given = sum(type_bytes(types[name]) for name in line.operands)
  result = type_bytes(line.type)
  if line.opcode in ("all-gather-start", "collective-permute-start"):
    # Their result holds the operand, too.
    result -= given
  return max(given, result)
