"""The collective communication of a compiled program."""

import dataclasses
import math
import re
from collections.abc import Iterable

from ddit_jax.planning.hlo import (
  Executed,
  HloText,
  Instruction,
  is_kernel,
  type_bytes,
)

_COLLECTIVE_KINDS = (
  "all-gather",
  "reduce-scatter",
  "all-reduce",
  "all-to-all",
  "collective-permute",
)
_CHANNEL = re.compile(r"channel_id=(\d+)")
# The TPU compiler cuts an asynchronous collective into steps inside fusions,
# which share a number.
_STEPS_OF = re.compile(r'chain_id="(\d+)"')
# How it names an all-reduce of which each device keeps a slice.
_REDUCE_SCATTER_NAME = "all-reduce-scatter"
_DONE = "AsyncCollectiveDone"
_COMPUTE = ("fusion", "dot", "convolution", "custom-call")
# Group sizes in the three ways that they are written.
_LISTED = re.compile(r"replica_groups=\{\{([\d,]*)\}")
_IOTA = re.compile(r"replica_groups=\[\d+,(\d+)\]")
_NAMED = re.compile(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}")

# The compiler's algorithm: "3DAllGatherOnMajorDim" runs a ring along each of
# three axes, "UniDirectionNDRingStrategy{colors:6 " six rings at once. A ring
# goes both ways round unless it says otherwise.
_GATHER_RINGS = re.compile(r'"emitter":"(\d)DAllGather')
_RINGS = re.compile(r"(UniDirection|Strategy)\w*\{colors:(\d+) ")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Collective:
  """One collective of a program.

  Attributes:
    kind: a name of `_COLLECTIVE_KINDS`.
    runs: how often the program executes it; in a loop, once per iteration.
    bytes: of the whole array in one run: the output of a gather, the input of
      a reduction.
    group_size: devices that take part; None if it is not written.
    is_overlapped: whether computations run between its start and its end.
    hidden_cycles: the compiler's estimate of those, in one run; several
      collectives at once share them.
    source: file and line, see `HloText.source`.
    links: of a device that the compiler's algorithm uses; None if the program
      does not say.
  """

  kind: str
  runs: int
  bytes: int
  group_size: int | None
  is_overlapped: bool = False
  hidden_cycles: int = 0
  source: str = ""
  links: int | None = None

  @property
  def sent_bytes(self) -> float:
    """What a device sends, and receives, in one run.

    Of n parts a device has one already; an all-reduce is a reduce-scatter and
    a gather.
    """
    if self.kind == "collective-permute" or self.group_size is None:
      return self.bytes
    away = self.bytes * (self.group_size - 1) / self.group_size
    return 2 * away if self.kind == "all-reduce" else away


@dataclasses.dataclass(frozen=True, kw_only=True)
class Traffic:
  """All collectives of one kind in one run of the program.

  Attributes:
    bytes: of the whole arrays, in all runs.
    exposed_bytes: of those that no computation overlaps.
  """

  bytes: int
  exposed_bytes: int


def by_kind(found: Iterable[Collective]) -> dict[str, Traffic]:
  """Sums by kind, of the kinds that occur."""
  found = list(found)
  return {
    kind: Traffic(
      bytes=sum(one.runs * one.bytes for one in ones),
      exposed_bytes=sum(
        one.runs * one.bytes for one in ones if not one.is_overlapped
      ),
    )
    for kind in _COLLECTIVE_KINDS
    if (ones := [one for one in found if one.kind == kind])
  }


def holds_collective(program: HloText, line: Instruction) -> bool:
  """Whether a line runs, starts or goes on with a collective."""
  inner = [(None, line), *program.inside(line)]
  return any(_kind(one, computation) for computation, one in inner)


def collectives(program: HloText) -> list[Collective]:
  """All collectives of a program, in the order of its schedule.

  An asynchronous one counts once: its steps share a channel, a number and the
  loops around them, and may lie in further loops between its start and its
  end. Copies of one instruction, as in an unrolled loop, share the channel
  alone, and count each.
  """
  found: list[Collective] = []
  # What is under way: loops around it, and its name or the key of its steps.
  open_: dict[tuple, int] = {}
  for one in program.schedule:
    held = [(_opened(open_, key), it) for key, it in _held(program, one)]
    ended = _ended(program, one, held)
    for key, started in held:
      if key is None:
        found.append(started)
      elif key not in open_:
        open_[key] = len(found)
        found.append(started)
    if _computes(program, one, held):
      hidden = [
        index
        for key, index in open_.items()
        if one.chain[: len(key[0])] == key[0]
      ]
      for index in hidden:
        found[index] = _hidden_by(found[index], one, len(hidden))
    for key in ended:
      open_.pop(key, None)
  return found


def _opened(open_: dict[tuple, int], key: tuple | None) -> tuple | None:
  """The key of the start that a step in a loop goes on with, or its own."""
  if key is None:
    return None
  chain, *number = key
  outer = ((chain[:depth], *number) for depth in range(len(chain)))
  return next((start for start in outer if start in open_), key)


def _computes(program: HloText, one: Executed, held) -> bool:
  """Whether a line of the schedule is work that can hide a transfer."""
  if program.has_cycles:
    return bool(one.line.cycles) or is_kernel(one.line)
  return not held and one.line.opcode in _COMPUTE


def _hidden_by(old: Collective, one: Executed, num_hidden: int) -> Collective:
  """Those that are under way at once share the links, and so the cycles."""
  cycles = (one.line.cycles or 0) * one.runs // old.runs // num_hidden
  return dataclasses.replace(
    old, is_overlapped=True, hidden_cycles=old.hidden_cycles + cycles
  )


def _held(program: HloText, one: Executed):
  """(key or None, collective) of those that a line runs, starts or goes on."""
  inner = [(None, one.line), *program.inside(one.line)]
  for computation, line in inner:
    kind = _kind(line, computation)
    if kind is None:
      continue
    types = one.types
    if computation is not None:
      lines = program.computations[computation]
      types = {other.name: other.type for other in lines}
    key = None
    if steps := _STEPS_OF.search(line.rest):
      channel = _CHANNEL.search(line.rest)
      key = (one.chain, channel and channel[1], steps[1])
    elif one.line.opcode.endswith("-start"):
      key = (one.chain, one.line.name)
    yield (
      key,
      Collective(
        kind=kind,
        runs=one.runs,
        bytes=_payload(line, types),
        group_size=_group_size(line.rest),
        source=program.source(one.line),
        links=_links(line.rest + one.line.rest),
      ),
    )


def _ended(program: HloText, one: Executed, held) -> list[tuple]:
  """Keys of the collectives that end with a line."""
  if one.line.opcode.endswith("-done"):
    return [(one.chain, name) for name in one.line.operands]
  if any(_DONE in line.rest for _, line in program.inside(one.line)):
    return [key for key, _ in held if key is not None]
  return []


def _kind(line: Instruction, computation: str | None) -> str | None:
  kind = line.opcode.removesuffix("-start")
  if kind not in _COLLECTIVE_KINDS:
    return None
  if kind == "all-reduce" and (computation or "").startswith(
    _REDUCE_SCATTER_NAME
  ):
    return "reduce-scatter"
  return kind


def _group_size(rest: str) -> int | None:
  if listed := _LISTED.search(rest):
    return len(listed[1].split(","))
  if iota := _IOTA.search(rest):
    return int(iota[1])
  if named := _NAMED.search(rest):
    sizes = dict(re.findall(r"'([^']+)'=(\d+)", named[1]))
    chosen = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", named[2])
    return math.prod(int(part or sizes[name]) for name, part in chosen)
  return None


def _links(rest: str) -> int | None:
  if gather := _GATHER_RINGS.search(rest):
    return 2 * int(gather[1])
  if rings := _RINGS.search(rest):
    return int(rings[2]) * (1 if rings[1] == "UniDirection" else 2)
  return None


def _payload(line: Instruction, types: dict[str, str]) -> int:
  """Bytes of the larger of operands and result."""
  given = sum(type_bytes(types[name]) for name in line.operands)
  result = type_bytes(line.type)
  if line.opcode in ("all-gather-start", "collective-permute-start"):
    # Their result contains the operand too.
    result -= given
  return max(given, result)
