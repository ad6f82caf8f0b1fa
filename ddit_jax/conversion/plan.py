"""Every number of our arrays gets its source before anything is read."""

import dataclasses
import fnmatch
import itertools
import math
from collections.abc import Iterator, Mapping

import numpy as np

from ddit_jax.conversion import transforms
from ddit_jax.conversion.components import ArrayShapes
from ddit_jax.conversion.errors import ConversionError, named
from ddit_jax.conversion.mapping import FRESH, LEFT_OVER, NAMINGS
from ddit_jax.conversion.rows import LeftOver, Row


@dataclasses.dataclass(frozen=True, kw_only=True)
class Piece:
  """One of their tensors and its place in one of our arrays.

  Attributes:
    name: their tensor.
    array: path of our array.
    block: index on our array's first axis, or None if it has no blocks.
    slab_shape: shape of our array without the blocks' axis.
    pattern: see `transforms`.
    part: which piece of the slab, by letters of the pattern.
    sizes: sizes of letters that no shape tells.
  """

  name: str
  array: str
  block: int | None
  slab_shape: tuple[int, ...]
  pattern: str
  part: transforms.Part
  sizes: transforms.Sizes

  @property
  def shape(self) -> tuple[int, ...]:
    """Shape of their tensor."""
    return transforms.their_shape(
      self.pattern, self.slab_shape, self.part, self.sizes
    )

  @property
  def index(self) -> tuple[int | slice, ...]:
    """Where the piece lies in the slab."""
    return transforms.our_index(self.pattern, self.part)

  def to_ours(self, array: np.ndarray) -> np.ndarray:
    """Their tensor as our piece."""
    return transforms.to_ours(
      self.pattern, array, self.slab_shape, part=self.part, sizes=self.sizes
    )

  def to_theirs(self, piece: np.ndarray) -> np.ndarray:
    """Our piece as their tensor."""
    return transforms.to_theirs(
      self.pattern, piece, self.slab_shape, part=self.part, sizes=self.sizes
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class FreshPiece:
  """A piece of our array that starts anew.

  Attributes:
    array: path of our array.
    block: index on its first axis, or None.
    index: where it lies in the slab.
    shape: its shape.
    init: "zeros", "identity" or "normal(0, STD)" with STD a number.
  """

  array: str
  block: int | None
  index: tuple[int | slice, ...]
  shape: tuple[int, ...]
  init: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Slab:
  """All of one block of one array (or all of an array without blocks).

  Attributes:
    array: path of our array.
    block: index on its first axis, or None.
    shape: shape of the slab.
    pieces: what comes from their tensors.
    fresh: what starts anew.
  """

  array: str
  block: int | None
  shape: tuple[int, ...]
  pieces: tuple[Piece, ...]
  fresh: tuple[FreshPiece, ...]


def expected_pieces(
  naming: str,
  arrays: ArrayShapes,
  *,
  counts: Mapping[str, int],
  sizes: transforms.Sizes,
) -> list[Piece]:
  """Every tensor that a complete checkpoint of this naming has.

  Args:
    naming: a key of `mapping.NAMINGS`.
    arrays: our arrays.
    counts: how far the names' counters run.
    sizes: sizes of pattern letters that no shape tells.
  """
  sections = NAMINGS[naming]
  counts = dict(counts)
  fixed = {"last": counts.get("n", 0) - 1}
  if any("{last}" in section.theirs for section in sections):
    counts["n"] -= 1
  pieces = []
  for section in sections:
    ranges = [range(counts[counter]) for counter in section.over]
    for numbers in itertools.product(*ranges):
      values = dict(zip(section.over, numbers, strict=True)) | fixed
      values |= _derived(values, counts)
      for row in section.rows:
        for ours, theirs, pattern in _leaves(row):
          path = (section.ours + ours).format(**values)
          path, block = _split_block(path, values)
          if path in arrays:
            shape = arrays[path] if block is None else arrays[path][1:]
            pieces.append(
              Piece(
                name=(section.theirs + theirs).format(**values),
                array=path,
                block=block,
                slab_shape=shape,
                pattern=pattern,
                part=row.part,
                sizes=sizes,
              )
            )
  return pieces


def fresh_pieces(
  naming: str, arrays: ArrayShapes, counts: Mapping[str, int]
) -> list[FreshPiece]:
  """What our arrays have and this naming lacks."""
  pieces = []
  for row in FRESH.get(naming, ()):
    path, block = _split_block(row.ours, {"last": counts.get("n", 0) - 1})
    shape = arrays[path] if block is None else arrays[path][1:]
    index = tuple(row.part.get(axis, slice(None)) for axis in row.axes)
    pieces.append(
      FreshPiece(
        array=path,
        block=block,
        index=index,
        shape=np.broadcast_to(0, shape)[index].shape,
        init=_with_number(row.init, row.axes, shape),
      )
    )
  return pieces


def slabs(
  pieces: list[Piece], fresh: list[FreshPiece], arrays: ArrayShapes
) -> list[Slab]:
  """Groups pieces by where they are written.

  Raises:
    AssertionError: a number of our arrays has no source, or two; the mapping
      table is wrong then, whatever the checkpoint.
  """
  groups: dict[tuple[str, int | None], tuple[list, list]] = {}
  for piece in pieces:
    groups.setdefault((piece.array, piece.block), ([], []))[0].append(piece)
  for piece in fresh:
    groups.setdefault((piece.array, piece.block), ([], []))[1].append(piece)
  found = []
  for (path, block), (taken, started) in groups.items():
    shape = arrays[path] if block is None else arrays[path][1:]
    _check_covered(path, shape, [*taken, *started])
    found.append(
      Slab(
        array=path,
        block=block,
        shape=shape,
        pieces=tuple(taken),
        fresh=tuple(started),
      )
    )
  numbers = sum(math.prod(slab.shape) for slab in found)
  if numbers != sum(math.prod(shape) for shape in arrays.values()):
    missing = sorted(set(arrays) - {slab.array for slab in found})
    raise AssertionError(f"the mapping leaves out {missing or 'some blocks'}")
  return found


def check_names(
  naming: str, tensors: Mapping[str, object], pieces: list[Piece], where: str
) -> dict[str, LeftOver]:
  """Compares a checkpoint's tensor names with the expected ones.

  Args:
    naming: naming of the tensors.
    tensors: the checkpoint's tensors by name.
    pieces: what `expected_pieces` gave.
    where: file or folder, for messages.

  Returns:
    The tensors that are known and not wanted.

  Raises:
    ConversionError: tensors are missing, or neither mapped nor known.
  """
  expected = {piece.name for piece in pieces}
  if missing := sorted(expected - tensors.keys()):
    raise ConversionError(
      f"{where} lacks {len(missing)} of {len(expected)} tensors: "
      f"{named(missing)}; it, or a config.json beside it, is incomplete or of "
      "another model: fetch all of it from one place"
    )
  left_over, unknown = {}, []
  for name in sorted(tensors.keys() - expected):
    matches = (
      known
      for known in LEFT_OVER.get(naming, ())
      if fnmatch.fnmatchcase(name, known.pattern)
    )
    known = next(matches, None)
    if known is None:
      unknown.append(name)
    else:
      left_over[name] = known
  if unknown:
    raise ConversionError(
      f"{where} has tensors that no array of ours takes: {named(unknown)}; it, "
      "or a config.json beside it, is of another model: fetch all of it from "
      "one place"
    )
  return left_over


def _leaves(row: Row) -> Iterator[tuple[str, str, str]]:
  """(our path, their name, pattern) of a row's weight and bias."""
  if row.kind in transforms.TENSOR_PATTERNS:
    yield row.ours, row.theirs, transforms.TENSOR_PATTERNS[row.kind]
    return
  weight, bias = transforms.MODULE_PATTERNS[row.kind]
  leaf = "scale" if row.kind == "norm" else "kernel"
  yield f"{row.ours}/{leaf}", f"{row.theirs}.weight", weight
  yield f"{row.ours}/bias", f"{row.theirs}.bias", bias


def _derived(
  values: Mapping[str, int], counts: Mapping[str, int]
) -> dict[str, int]:
  derived = {}
  if "i" in values:
    derived["i_reversed"] = counts["i"] - 1 - values["i"]
  if "m" in values:
    derived["m_from_one"] = values["m"] + 1
  return derived


def _split_block(
  path: str, values: Mapping[str, int]
) -> tuple[str, int | None]:
  for counter in ("n", "last"):
    if f"[{counter}]" in path:
      return path.replace(f"[{counter}]", ""), values[counter]
  return path, None


def _with_number(init: str, axes: str, shape: tuple[int, ...]) -> str:
  head, separator, tail = init.partition("1/sqrt(")
  if not separator:
    return init
  letters = tail.partition(")")[0]
  count = math.prod(shape[axes.index(letter)] for letter in letters)
  return f"{head}{count**-0.5:.6g})"


def _check_covered(
  path: str, shape: tuple[int, ...], pieces: list[Piece | FreshPiece]
) -> None:
  # Axes that no piece divides need one element only.
  indices = [piece.index for piece in pieces]
  is_divided = [
    any(index[axis] != slice(None) for index in indices)
    for axis in range(len(shape))
  ]
  small = [
    size if divided else 1
    for size, divided in zip(shape, is_divided, strict=True)
  ]
  count = np.zeros(small, np.int32)
  for index in indices:
    count[index] += 1
  if not (count == 1).all():
    raise AssertionError(f"the mapping does not cover {path} exactly once")
