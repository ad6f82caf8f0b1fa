"""The cycles of a compiled program by the kind of work."""

from ddit_jax.planning.hlo import (
  Executed,
  HloText,
  Instruction,
  is_kernel,
  is_product,
)

_WORK_KINDS = (
  "matrix_products",
  "attention",
  "norms_and_modulation",
  "copies",
  "optimizer",
  "other",
)
# Opcodes that only move, cast or create data.
_MOVES = frozenset(
  (
    "bitcast",
    "bitcast-convert",
    "broadcast",
    "concatenate",
    "constant",
    "convert",
    "copy",
    "copy-done",
    "copy-start",
    "dynamic-slice",
    "dynamic-update-slice",
    "fusion",
    "get-tuple-element",
    "iota",
    "pad",
    "parameter",
    "reshape",
    "slice",
    "transpose",
    "tuple",
  )
)


def cycles_by_kind(program: HloText) -> dict[str, int] | None:
  """Estimated cycles of one run, by a name of `_WORK_KINDS`.

  Collectives and custom kernels have no estimate and count nothing, see
  `collectives` and `kernel_flops`.

  Returns:
    None if this compiler estimates no cycles.
  """
  if not program.has_cycles:
    return None
  totals = dict.fromkeys(_WORK_KINDS, 0)
  for one in program.schedule:
    if one.line.cycles:
      totals[_kind(program, one)] += one.line.cycles * one.runs
  return totals


def num_kernels(program: HloText) -> int:
  """Runs of custom kernels."""
  return sum(one.runs for one in program.schedule if is_kernel(one.line))


def _kind(program: HloText, one: Executed) -> str:
  inner = [one.line, *(line for _, line in program.inside(one.line))]
  products = [line for line in inner if is_product(line)]
  functions, files = _origin(program, products + inner)
  if "TrainStep.update" in functions and "TrainStep.gradients" not in functions:
    return "optimizer"
  is_linear = any(file.endswith("linen/linear.py") for file in files)
  names = " ".join(functions).lower()
  if ("attend" in names or "attention" in names) and not is_linear:
    return "attention"
  if products:
    return "matrix_products"
  if all(line.opcode in _MOVES for line in inner):
    return "copies"
  is_network = any(
    f"ddit_jax/{folder}/" in file
    for file in files
    for folder in ("models", "encoders")
  )
  return "norms_and_modulation" if is_network else "other"


def _origin(
  program: HloText, lines: list[Instruction]
) -> tuple[set[str], set[str]]:
  """(functions, files) of the first line whose source is known."""
  for line in lines:
    if frames := program.frames(line):
      return {f.function for f in frames}, {f.file for f in frames}
  return set(), set()
