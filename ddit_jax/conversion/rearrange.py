"""Rearrangements between a published tensor and rows of our array.

A pattern of einops reads `theirs -> ours` and works in both directions. `r`
counts the rows of one weight (q, k, v; shift, scale, gate), `h` heads and `d`
their features, `i` inputs and `o` outputs. Bits are moved without being
interpreted, so any dtype is possible.
"""

import functools
import re
from collections.abc import Iterator, Mapping

import einops
import numpy as np
from jaxtyping import Shaped

# Of a module's weight and of its bias.
_MODULES = {
  "linear": ("o i -> i o", "o -> o"),
  "linear_1x1": ("o i 1 1 -> i o", "o -> o"),
  "norm": ("o -> o", "o -> o"),
  "rows": ("(r o) i -> i r o", "(r o) -> r o"),
  "rows_1x1": ("(r o) i 1 1 -> i r o", "(r o) -> r o"),
  "heads": ("(r h d) i -> i r h d", "(r h d) -> r h d"),
  "heads_out": ("o (h d) -> h d o", "o -> o"),
  # GPT-2 stores inputs first.
  "linear_inputs_first": ("i o -> i o", "o -> o"),
  "heads_inputs_first": ("i (r h d) -> i r h d", "(r h d) -> r h d"),
  "heads_out_inputs_first": ("(h d) o -> h d o", "o -> o"),
  "conv": ("o i y x -> y x i o", "o -> o"),
  "patch": ("o c y x -> (y x c) o", "o -> o"),
}
# Of an array that stands alone.
_ARRAYS = {
  "matrix": "a b -> a b",
  "vector": "a -> a",
  "tokens": "1 n w -> n w",
  "grid": "1 (y x) w -> y x w",
}
_ROWS_AT_ONCE = 16


def leaves(rearrangement: str) -> Iterator[tuple[str, str, str]]:
  """(suffix of our path, suffix of their key, pattern) of a row's arrays."""
  if rearrangement in _ARRAYS:
    yield "", "", _ARRAYS[rearrangement]
    return
  weight, bias = _MODULES[rearrangement]
  name = "scale" if rearrangement == "norm" else "kernel"
  yield f"/{name}", ".weight", weight
  yield "/bias", ".bias", bias


def index_of(pattern: str, rows: slice) -> tuple[slice, ...]:
  """The index of our array that selects `rows` of its axis `r`."""
  return tuple(
    rows if axis == "r" else slice(None) for axis in _our_axes(pattern)
  )


def axis_sizes(
  pattern: str, our_shape: tuple[int, ...], patch_size: int
) -> dict[str, int]:
  """The sizes that einops needs to split an axis, in either direction."""
  known = {"y": patch_size, "x": patch_size}
  known |= dict(zip(_our_axes(pattern), our_shape, strict=True))
  used = re.findall(r"[a-z]", pattern)
  return {axis: size for axis, size in known.items() if axis in used}


def to_ours(
  pattern: str, theirs: Shaped[np.ndarray, "*theirs"], sizes: Mapping[str, int]
) -> Shaped[np.ndarray, "*ours"]:
  """Their tensor as a slice of our array; a view where possible."""
  return einops.rearrange(theirs, pattern, **sizes)


def to_theirs(
  pattern: str, ours: Shaped[np.ndarray, "*ours"], sizes: Mapping[str, int]
) -> Shaped[np.ndarray, "*theirs"]:
  """The inverse of `to_ours`."""
  left, right = pattern.split(" -> ")
  return einops.rearrange(ours, f"{right} -> {left}", **sizes)


def their_shape(
  pattern: str, our_shape: tuple[int, ...], sizes: Mapping[str, int]
) -> tuple[int, ...]:
  """The shape of their tensor, from that of our slice."""
  # A broadcast scalar takes no memory in any shape.
  return to_theirs(
    pattern, np.broadcast_to(np.uint8(0), our_shape), sizes
  ).shape


def copy_into(
  target: Shaped[np.ndarray, "*shape"], source: Shaped[np.ndarray, "*shape"]
) -> None:
  """`target[...] = source`, fast for transposed sources of any dtype.

  Bits are moved as integers, and in narrow stripes of the target's last axis,
  so that each cache line is used whole: 380 MB/s instead of 100 MB/s for a
  transposed float16 matrix of T5-XXL, [10240, 4096].
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
def _our_axes(pattern: str) -> list[str]:
  return re.findall(r"\([^)]*\)|\w+", pattern.split(" -> ")[1])
