"""Named rearrangements between a stored tensor and a piece of our array.

A pattern reads `theirs -> ours`, one word a dimension: `(h d) i -> i q h d`
says that their rows are heads times head features. A letter that only ours has
(q) is one index of our array, chosen by the mapping's `part`; `~r` runs
backwards; `1` is a dimension of size one. Every pattern works in both
directions and moves bits without looking at them.
"""

import functools
import math
from collections.abc import Mapping

import numpy as np

# For a module's weight, then for its bias.
MODULE_PATTERNS: dict[str, tuple[str, str]] = {
  "linear": ("o i -> i o", "o -> o"),
  "norm": ("o -> o", "o -> o"),
  "rows": ("(r o) i -> i r o", "(r o) -> r o"),
  "reversed_rows": ("(~r o) i -> i r o", "(~r o) -> r o"),
  "one_row": ("o i -> i r o", "o -> r o"),
  "one_row_conv": ("o i 1 1 -> i r o", "o -> r o"),
  "heads": ("(h d) i -> i q h d", "(h d) -> q h d"),
  "fused_heads": ("(q h d) i -> i q h d", "(q h d) -> q h d"),
  "heads_out": ("o (h d) -> h d o", "o -> o"),
  "conv": ("o i y x -> y x i o", "o -> o"),
  "conv_linear": ("o i 1 1 -> i o", "o -> o"),
  "patch": ("o c y x -> (y x c) o", "o -> o"),
}
# For a tensor that stands alone.
TENSOR_PATTERNS: dict[str, str] = {
  "matrix": "a b -> a b",
  "tokens": "1 n w -> n w",
  "position_table": "1 (y x) w -> y x w",
}

# A letter of a pattern -> the index or range of our array it stands for.
Part = Mapping[str, int | slice]
# Letters whose size no shape tells, e.g. the sides of a patch.
Sizes = Mapping[str, int]

_ROWS_AT_ONCE = 16


def our_index(pattern: str, part: Part) -> tuple[int | slice, ...]:
  """Where the piece lies in our array."""
  _, ours = _parse(pattern)
  return tuple(part.get(group[0], slice(None)) for group in ours)


def their_shape(
  pattern: str, our_shape: tuple[int, ...], part: Part, sizes: Sizes
) -> tuple[int, ...]:
  """The stored tensor's shape, from the shape of our array.

  Raises:
    ValueError: our array has another number of dimensions than the pattern.
  """
  theirs, _ = _parse(pattern)
  known = _sizes(pattern, our_shape, part, sizes)
  return tuple(
    math.prod(known[name.lstrip("~")] for name in group) for group in theirs
  )


def to_ours(
  pattern: str, array: np.ndarray, our_shape: tuple[int, ...], **places
) -> np.ndarray:
  """The piece of our array that `array` holds; a view where possible.

  Args:
    pattern: see the module.
    array: a stored tensor of shape `their_shape(...)`.
    our_shape: the whole array's shape.
    **places: `part` and `sizes`, as in `their_shape`.
  """
  theirs, ours = _parse(pattern)
  known = _sizes(pattern, our_shape, places["part"], places["sizes"])
  names = [name for group in theirs for name in group]
  x = array.reshape([known[name.lstrip("~")] for name in names])
  x = _flip(x, names)
  kept = [axis for axis, name in enumerate(names) if name != "1"]
  x = x.reshape([x.shape[axis] for axis in kept])
  left = [names[axis].lstrip("~") for axis in kept]
  groups = [g for g in ours if g[0] in left]
  x = x.transpose([left.index(name) for group in groups for name in group])
  return x.reshape([math.prod(known[n] for n in group) for group in groups])


def to_theirs(
  pattern: str, piece: np.ndarray, our_shape: tuple[int, ...], **places
) -> np.ndarray:
  """The inverse of `to_ours`."""
  theirs, ours = _parse(pattern)
  known = _sizes(pattern, our_shape, places["part"], places["sizes"])
  names = [name for group in theirs for name in group if name != "1"]
  left = [name.lstrip("~") for name in names]
  right = [name for group in ours for name in group if name in left]
  x = piece.reshape([known[name] for name in right])
  x = _flip(x.transpose([right.index(name) for name in left]), names)
  return x.reshape(
    [math.prod(known[n.lstrip("~")] for n in group) for group in theirs]
  )


def copy_into(target: np.ndarray, source: np.ndarray) -> None:
  """`target[...] = source`, quick for transposed sources of any dtype.

  Bits are moved as integers, and in narrow stripes of the target's last
  dimension, so that each cache line that is read is used whole.
  """
  bits = np.dtype(f"u{target.dtype.itemsize}")
  target, source = target.view(bits), source.view(bits)
  if target.ndim < 2 or source.strides[-1] == source.itemsize:
    target[...] = source
    return
  if target.ndim > 2 and source.strides[0] == source.itemsize:
    for row in range(target.shape[-2]):
      copy_into(target[..., row, :], source[..., row, :])
    return
  for start in range(0, target.shape[-1], _ROWS_AT_ONCE):
    stripe = np.s_[..., start : start + _ROWS_AT_ONCE]
    target[stripe] = source[stripe]


@functools.cache
def _parse(pattern: str) -> tuple[list[list[str]], list[list[str]]]:
  """Both sides as lists of dimensions, each a list of names."""
  sides = []
  for side in pattern.split(" -> "):
    words = side.replace("(", " ( ").replace(")", " ) ").split()
    groups, is_open = [], False
    for word in words:
      if word == "(":
        groups.append([])
        is_open = True
      elif word == ")":
        is_open = False
      elif is_open:
        groups[-1].append(word)
      else:
        groups.append([word])
    sides.append(groups)
  theirs, ours = sides
  return theirs, ours


def _sizes(
  pattern: str, our_shape: tuple[int, ...], part: Part, sizes: Sizes
) -> dict[str, int]:
  """The size of every letter; a letter of `part` counts what it selects."""
  _, ours = _parse(pattern)
  if len(ours) != len(our_shape):
    raise ValueError(f"pattern {pattern!r} does not suit shape {our_shape}")
  known = {"1": 1, **sizes}
  for group, size in zip(ours, our_shape, strict=True):
    selected = part.get(group[0])
    if isinstance(selected, slice):
      size = len(range(*selected.indices(size)))
    unknown = [name for name in group if name not in known]
    if len(group) == 1:
      known[group[0]] = size
    elif unknown:
      others = math.prod(known[n] for n in group if n in known)
      known[unknown[0]] = size // others
  return known


def _flip(x: np.ndarray, names: list[str]) -> np.ndarray:
  axes = tuple(i for i, name in enumerate(names) if name.startswith("~"))
  return np.flip(x, axes) if axes else x
