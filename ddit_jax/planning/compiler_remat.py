"""Work that the compiler itself repeats to save memory.

Near the limit of a device's memory XLA computes values a second time instead of
keeping them, beyond what `model.execution.remat` asks for. It marks the copies
by ".remat" in their names.
"""

import dataclasses
import re

from ddit_jax.planning.hlo import HloText, Instruction, is_kernel, is_product

_REPEATED = re.compile(r"\.remat\d*\b")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompilerRemat:
  """What the compiler repeats in one run of a program.

  Attributes:
    runs: executions of all repeated instructions, cheap ones included.
    product_runs: of those with a matrix product or a Pallas kernel.
    sources: for each of the latter the line of Python that it comes from, or
      else its name; one in a loop once.
  """

  runs: int
  product_runs: int
  sources: tuple[str, ...]


def compiler_remat(program: HloText) -> CompilerRemat:
  """Finds the instructions that XLA rematerialised."""
  repeated = [
    one for one in program.schedule if _REPEATED.search(one.line.name)
  ]
  products = [one for one in repeated if _is_costly(program, one.line)]
  return CompilerRemat(
    runs=sum(one.runs for one in repeated),
    product_runs=sum(one.runs for one in products),
    sources=tuple(
      program.source(one.line) or one.line.name for one in products
    ),
  )


def _is_costly(program: HloText, line: Instruction) -> bool:
  lines = [line, *(inner for _, inner in program.inside(line))]
  return any(is_product(one) or is_kernel(one) for one in lines)
