"""What the rows of the mapping table are made of.

A `Row` pairs one of our modules (or arrays) with one of theirs; `transforms`
says how the numbers are arranged. In names, {n} counts the blocks that are
stacked in one array, which `[n]` marks on our side; {i}, {j} and {m} count
modules that are separate arrays; {last} is the last block. A `Section` gives
rows a prefix and says what is counted. A row whose array our tree lacks (a
shortcut, a bias) stands for nothing there.
"""

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Row:
  """One of our modules or arrays and its counterpart.

  Attributes:
    ours: path below the section's.
    theirs: name below the section's.
    kind: a key of `transforms.MODULE_PATTERNS` ("norm" is a vector called
      scale here), or of `TENSOR_PATTERNS` for an array without a module.
    part: which piece of our array this is, by letters of the pattern.
  """

  ours: str
  theirs: str
  kind: str
  part: Mapping[str, int | slice] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Section:
  """Rows that share prefixes.

  Attributes:
    ours: prefix of our paths.
    theirs: prefix of their names.
    rows: the rows.
    over: counters that run through the section.
  """

  ours: str
  theirs: str
  rows: tuple[Row, ...]
  over: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class FreshRow:
  """A piece of our array that has no counterpart and starts anew.

  Attributes:
    ours: path of the array.
    init: "zeros", "identity", "normal(0, STD)" or "normal(0, 1/sqrt(COUNT))"
      with COUNT a dimension's letter of `axes`.
    axes: a letter for each dimension (without the blocks').
    part: which piece this is, by these letters.
  """

  ours: str
  init: str
  axes: str
  part: Mapping[str, int | slice] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class LeftOver:
  """Tensors that are known and not wanted.

  Attributes:
    pattern: shell pattern of their names.
    reason: why nothing takes them.
    twin: name of the tensor they must equal, or "".
  """

  pattern: str
  reason: str
  twin: str = ""


def qkv_rows(ours: str, *names: str) -> tuple[Row, ...]:
  """Separate q, k and v (the names) as the three parts of our one array."""
  return tuple(
    Row(ours, name, "heads", {"q": place}) for place, name in enumerate(names)
  )
