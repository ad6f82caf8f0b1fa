"""What happened to every tensor, as rows and as text."""

import collections
import dataclasses
import math
from typing import Any

from ddit_jax.conversion.component_plan import ComponentPlan, ConversionPlan
from ddit_jax.conversion.dtypes import CastCounter
from ddit_jax.conversion.plan import FreshPiece, Piece
from ddit_jax.conversion.safetensors_files import DTYPES, StoredTensor

FATES = ("mapped", "fresh", "left over")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReportRow:
  """One tensor of theirs, or one fresh piece of ours.

  Attributes:
    fate: one of `FATES`.
    name: FOLDER/FILE:TENSOR, or our array for a fresh piece.
    numbers: how many numbers it has.
    detail: our array; the initialisation; or why nothing takes it.
  """

  fate: str
  name: str
  numbers: int
  detail: str


def report_rows(plan: ConversionPlan, seed: int) -> list[ReportRow]:
  """Every tensor of the source and every fresh piece, in their order."""
  rows = []
  for component in plan.components:
    rows += _component_rows(component, seed)
  rows += [_left_over(tensor, reason) for tensor, reason in plan.left_over]
  return rows


def report_lines(
  rows: list[ReportRow], counter: CastCounter, notes: tuple[str, ...]
) -> list[str]:
  """The report as text: a line a tensor, then casts, notes and sums."""
  width = max(len(row.fate) for row in rows)
  lines = [f"{row.fate:<{width}}  {row.name}  {row.detail}" for row in rows]
  for (stored, kept), count in sorted(counter.counts.items()):
    lines.append(
      f"cast  {stored} to {kept}: {count.tensors} tensors, {count.numbers:,} "
      f"numbers, largest {count.largest:.6g}, {count.flushed:,} became zero"
    )
  lines += [f"note  {note}" for note in notes]
  for fate in FATES:
    own = [row.numbers for row in rows if row.fate == fate]
    lines.append(f"{fate}: {len(own)} tensors, {sum(own):,} numbers")
  return lines


def report_record(
  rows: list[ReportRow], counter: CastCounter, notes: tuple[str, ...]
) -> dict[str, Any]:
  """The report as JSON-able data."""
  fates = collections.defaultdict(list)
  for row in rows:
    fates[row.fate].append([row.name, row.numbers, row.detail])
  return {
    "tensors": dict(fates),
    "casts": [
      {"from": stored, "to": kept, **dataclasses.asdict(count)}
      for (stored, kept), count in sorted(counter.counts.items())
    ],
    "notes": list(notes),
  }


def _component_rows(plan: ComponentPlan, seed: int) -> list[ReportRow]:
  rows = []
  for slab in plan.slabs:
    for piece in slab.pieces:
      tensor = plan.tensors[piece.name]
      rows.append(
        ReportRow(
          fate="mapped",
          name=_label(tensor),
          numbers=math.prod(tensor.shape),
          detail=f"-> {plan.name}/{_place(piece)}{_cast(plan, piece, tensor)}",
        )
      )
    for piece in slab.fresh:
      is_random = piece.init.startswith("normal")
      rows.append(
        ReportRow(
          fate="fresh",
          name=f"{plan.name}/{_place(piece)}",
          numbers=math.prod(piece.shape),
          detail=piece.init + (f", seed {seed}" if is_random else ""),
        )
      )
  rows += [_left_over(tensor, reason) for tensor, reason in plan.left_over]
  return rows


def _left_over(tensor: StoredTensor, reason: str) -> ReportRow:
  return ReportRow(
    fate="left over",
    name=_label(tensor),
    numbers=math.prod(tensor.shape),
    detail=reason,
  )


def _label(tensor: StoredTensor) -> str:
  """A tensor's file and name: folders share names like "encoder...."."""
  return f"{tensor.file.parent.name}/{tensor.file.name}:{tensor.name}"


def _place(piece: Piece | FreshPiece) -> str:
  block = "" if piece.block is None else f"[{piece.block}]"
  if all(index == slice(None) for index in piece.index):
    return piece.array + block
  indices = ", ".join(
    str(index) if isinstance(index, int) else _slice_text(index)
    for index in piece.index
  )
  return f"{piece.array}{block}[{indices}]"


def _slice_text(index: slice) -> str:
  return ":" if index == slice(None) else f"{index.start}:{index.stop}"


def _cast(plan: ComponentPlan, piece: Piece, tensor: StoredTensor) -> str:
  kept = plan.arrays[piece.array][1]
  is_same = DTYPES[tensor.dtype] == kept
  return "" if is_same else f" ({tensor.dtype} to {kept.name})"
