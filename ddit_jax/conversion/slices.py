"""Applies the key map: which published tensor is which slice of our arrays."""

import dataclasses
import itertools
import math
import re
from collections.abc import Iterator, Mapping

import numpy as np
from jaxtyping import Shaped

from ddit_jax.conversion import rearrange
from ddit_jax.conversion.configs import (
  ArrayShapes,
  NetworkConfig,
  array_shapes,
)
from ddit_jax.conversion.key_map import KEY_SCHEMES
from ddit_jax.encoders.vae import AutoencoderConfig

# (path of our array, index on its first axis if it stacks blocks, else None)
Block = tuple[str, int | None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TensorSlice:
  """A slice of one of our arrays and what fills it.

  Attributes:
    block: the array, or one block of it.
    index: the slice within the block.
    shape: its shape.
    key: key of the published tensor; None if the slice is newly initialised.
    pattern: how their tensor is rearranged, see `rearrange`.
    sizes: sizes of the pattern's axes.
    init: of a new slice: "zeros", "identity" or "normal(0,STD)".
  """

  block: Block
  index: tuple[slice, ...]
  shape: tuple[int, ...]
  key: str | None
  pattern: str
  sizes: Mapping[str, int]
  init: str = ""

  @property
  def rows(self) -> slice:
    """The rows of our array that it takes; `slice(None)` for all of a block."""
    return next((i for i in self.index if i != slice(None)), slice(None))

  @property
  def their_shape(self) -> tuple[int, ...]:
    """The shape of their tensor."""
    return rearrange.their_shape(self.pattern, self.shape, self.sizes)

  def to_ours(
    self, theirs: Shaped[np.ndarray, "*theirs"]
  ) -> Shaped[np.ndarray, "*ours"]:
    """Their tensor as our slice."""
    return rearrange.to_ours(self.pattern, theirs, self.sizes)

  def to_theirs(
    self, block: Shaped[np.ndarray, "*block"]
  ) -> Shaped[np.ndarray, "*theirs"]:
    """Their tensor, from the whole block of our array."""
    return rearrange.to_theirs(self.pattern, block[self.index], self.sizes)


def tensor_slices(scheme_name: str, config: NetworkConfig) -> list[TensorSlice]:
  """Every slice of a network's arrays, new ones first.

  Args:
    scheme_name: a key of `key_map.KEY_SCHEMES`.
    config: the network's configuration.
  """
  scheme = KEY_SCHEMES[scheme_name]
  counts = _counts(config)
  if any("{last}" in theirs for _, theirs, _ in scheme.tables):
    counts["n"] -= 1
  new = list(_slices([("", "", scheme.new)], config, counts, is_new=True))
  # An entirely new block has no published tensor.
  whole = {s.block for s in new if s.rows == slice(None)}
  return new + [
    found
    for found in _slices(scheme.tables, config, counts)
    if found.block not in whole
  ]


def blocks_of(
  slices: list[TensorSlice], arrays: ArrayShapes
) -> dict[Block, list[TensorSlice]]:
  """Groups slices by the block that they fill.

  Raises:
    AssertionError: a value of our arrays has no source, or two; this is an
      error in the key map, independent of the checkpoint.
  """
  blocks: dict[Block, list[TensorSlice]] = {}
  for found in slices:
    blocks.setdefault(found.block, []).append(found)
  numbers = 0
  for block, parts in blocks.items():
    shape = block_shape(block, arrays)
    numbers += math.prod(shape)
    # Axes that no slice divides need one element only.
    used = np.zeros(
      [
        size if any(s.index[axis] != slice(None) for s in parts) else 1
        for axis, size in enumerate(shape)
      ],
      np.int32,
    )
    for part in parts:
      used[part.index] += 1
    assert (used == 1).all(), f"the key map does not cover {block} exactly once"
  missing = sorted(set(arrays) - {array for array, _ in blocks})
  total = sum(math.prod(shape) for shape in arrays.values())
  assert numbers == total, f"the key map lacks {missing or 'some blocks'}"
  return blocks


def block_shape(block: Block, arrays: ArrayShapes) -> tuple[int, ...]:
  """The shape of a block of one of our arrays."""
  path, number = block
  return arrays[path] if number is None else arrays[path][1:]


def _counts(config: NetworkConfig) -> dict[str, int]:
  """The ranges of the key map's counters."""
  if isinstance(config, AutoencoderConfig):
    stages, layers = len(config.block_widths), config.layers_per_block + 1
    return {"i": stages, "j": layers, "m": 2}
  return {"n": config.depth, "last": config.depth - 1}


def _slices(
  tables, config: NetworkConfig, counts: Mapping[str, int], is_new: bool = False
) -> Iterator[TensorSlice]:
  arrays = array_shapes(config)
  patch_size = getattr(config, "patch_size", 1)
  for our_path, theirs, kind in _rows(tables, counts):
    module, rows = _split_rows(our_path)
    for suffix, their_suffix, pattern in rearrange.leaves(kind):
      path, number = _split_block(module + suffix)
      if path not in arrays:
        continue
      shape = block_shape((path, number), arrays)
      index = rearrange.index_of(pattern, rows)
      shape = np.broadcast_to(0, shape)[index].shape
      init = "zeros" if suffix == "/bias" else theirs
      yield TensorSlice(
        block=(path, number),
        index=index,
        shape=shape,
        key=None if is_new else theirs + their_suffix,
        pattern=pattern,
        sizes=rearrange.axis_sizes(pattern, shape, patch_size),
        init=_with_std(init, shape) if is_new else "",
      )


def _rows(tables, counts: Mapping[str, int]) -> Iterator[tuple[str, str, str]]:
  """(our path, their key, rearrangement), their counters filled in."""
  for our_prefix, their_prefix, table in tables:
    counters = re.findall(r"{([nijm])}", our_prefix)
    for numbers in itertools.product(*(range(counts[c]) for c in counters)):
      values = {**counts, **dict(zip(counters, numbers, strict=True))}
      values["i_reversed"] = counts.get("i", 0) - 1 - values.get("i", 0)
      values["m_from_one"] = values.get("m", 0) + 1
      for line in filter(None, table.splitlines()):
        ours, theirs, kind = line.split()
        names = (our_prefix + ours, their_prefix + theirs)
        yield *(name.format(**values) for name in names), kind


def _split_rows(path: str) -> tuple[str, slice]:
  """ "text/qkv[0:1]" -> ("text/qkv", slice(0, 1))."""
  path, _, rows = path.partition("[")
  ends = [int(end) if end else None for end in rows.rstrip("]").split(":")]
  return path, slice(*ends)


def _split_block(path: str) -> Block:
  """ "blocks/3/text/out" -> ("params/blocks/text/out", 3)."""
  if not path.startswith("constants/"):
    path = f"params/{path}"
  found = re.fullmatch(r"params/blocks/(\d+)/(.*)", path)
  return (f"params/blocks/{found[2]}", int(found[1])) if found else (path, None)


def _with_std(init: str, shape: tuple[int, ...]) -> str:
  """Replaces "1/sqrt(width)" or "1/sqrt(inputs)" by its value."""
  for word, count in (("width", shape[-1]), ("inputs", math.prod(shape[:-1]))):
    init = init.replace(f"1/sqrt({word})", f"{count**-0.5:.6g}")
  return init
