"""One network of a converted checkpoint on its way out."""

import collections
import dataclasses
import functools
import math
import pathlib
import re
from collections.abc import Callable, Mapping

import numpy as np
import tensorstore

from ddit_jax.conversion.array_folder import ArrayFolder
from ddit_jax.conversion.components import (
  ComponentConfig,
  array_shapes,
  counters,
  pattern_sizes,
)
from ddit_jax.conversion.dtypes import OUTPUT_DTYPES, CastCounter, cast
from ddit_jax.conversion.errors import ConversionError, named
from ddit_jax.conversion.plan import Piece, expected_pieces, slabs
from ddit_jax.conversion.safetensors_files import DTYPES, StoredTensor
from ddit_jax.conversion.safetensors_writer import (
  TensorSpec,
  assign_shards,
  write_folder,
)
from ddit_jax.conversion.slab_work import check_slab, for_each_slab
from ddit_jax.conversion.transforms import copy_into

_STEMS = {
  "network": "diffusion_pytorch_model",
  "vae": "diffusion_pytorch_model",
  "text_encoder": "model",
  "clip_l": "model",
  "clip_g": "model",
}
# The q, k and v of one slab are asked for with one other between them.
_SLABS_KEPT = 3
_FORMAT_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComponentExport:
  """One network and the tensors it becomes.

  Attributes:
    name: "network", "text_encoder", ...
    config: its configuration.
    pieces: tensor name -> where it lies in our arrays.
    shapes: path of our array -> its shape.
    folders: "params", "constants" -> folder of arrays.
    dtype: dtype of all tensors, or None for that of the arrays.
  """

  name: str
  config: ComponentConfig
  pieces: dict[str, Piece]
  shapes: Mapping[str, tuple[int, ...]]
  folders: Mapping[str, ArrayFolder]
  dtype: np.dtype | None

  def read(self, path: str, block: int | None) -> np.ndarray:
    """One block of one of our arrays (all of it, if it has no blocks)."""
    array = self.array(path)
    return (array if block is None else array[block]).read().result()

  def kept_dtype(self, path: str) -> np.dtype:
    """The dtype in which an array leaves."""
    return self.dtype or self.array(path).dtype.numpy_dtype

  def commonest_dtype(self) -> np.dtype:
    """The dtype in which most arrays leave."""
    kept = collections.Counter(self.kept_dtype(path) for path in self.shapes)
    return kept.most_common(1)[0][0]

  def array(self, path: str) -> tensorstore.TensorStore:
    """One of our arrays, to be read by slices."""
    collection, _, rest = path.partition("/")
    return self.folders[collection].array(rest)

  def specs(self) -> list[TensorSpec]:
    """Every tensor, sorted by name."""
    return [
      TensorSpec(
        name=name,
        dtype=_FORMAT_NAMES[self.kept_dtype(piece.array)],
        shape=piece.shape,
      )
      for name, piece in sorted(self.pieces.items())
    ]

  def nbytes(self) -> int:
    """Bytes of all tensors."""
    return sum(spec.nbytes for spec in self.specs())

  def largest_array(self) -> int:
    """Bytes of the largest of our arrays, in the dtype it leaves in."""
    return max(
      math.prod(shape) * self.kept_dtype(path).itemsize
      for path, shape in self.shapes.items()
    )


def open_component(
  folders: Mapping[str, pathlib.Path],
  name: str,
  config: ComponentConfig,
  *,
  naming: str,
  dtype: str | None,
) -> ComponentExport:
  """Opens a network's arrays and finds the tensors they become.

  Args:
    folders: "params", "constants" -> folder of arrays.
    name: "network", "text_encoder", ...
    config: its configuration.
    naming: the naming to export to.
    dtype: a key of `OUTPUT_DTYPES`, or None to keep the arrays' own.

  Raises:
    ConversionError: arrays are missing, unexpected, or of another shape.
  """
  shapes = array_shapes(config)
  opened = {key: ArrayFolder(folder) for key, folder in folders.items()}
  found = {f"{key}/{p}" for key, f in opened.items() for p in f.paths()}
  if wrong := sorted(found ^ shapes.keys()):
    raise ConversionError(
      f"the arrays of {name} in {named(folders.values())} are not those of its "
      f"config.json: {named(wrong)} missing or unexpected; give those of the "
      "same network"
    )
  pieces = expected_pieces(
    naming, shapes, counts=counters(config), sizes=pattern_sizes(config)
  )
  part = ComponentExport(
    name=name,
    config=config,
    pieces={piece.name: piece for piece in pieces},
    shapes=shapes,
    folders=opened,
    dtype=None if dtype is None else DTYPES[OUTPUT_DTYPES[dtype]],
  )
  for path, shape in shapes.items():
    stored = part.array(path).shape
    if stored != shape:
      raise ConversionError(
        f"array {path} of {name} has shape {stored}, its config.json says "
        f"{shape}: they belong to different checkpoints"
      )
  return part


def write_component(
  part: ComponentExport,
  folder: pathlib.Path,
  source_files: Mapping[str, str] | None,
  *,
  counter: CastCounter,
  progress: Callable[[int], None],
) -> None:
  """Writes a network's safetensors into a new folder.

  Args:
    part: the network.
    folder: does not exist yet.
    source_files: tensor name to file name of the source, to be used again if
      it fits; None cuts by size.
    counter: where casts are counted.
    progress: told of the bytes written.

  Raises:
    ConversionError: a number does not fit the dtype.
  """
  folder.mkdir(parents=True)
  read_slab = functools.lru_cache(maxsize=_SLABS_KEPT)(part.read)

  def read(spec: TensorSpec) -> np.ndarray:
    piece = part.pieces[spec.name]
    slab = read_slab(piece.array, piece.block)
    theirs = np.empty(spec.shape, slab.dtype)
    copy_into(theirs, piece.to_theirs(slab[piece.index]))
    progress(spec.nbytes)
    return cast(spec.name, theirs, DTYPES[spec.dtype], counter)

  specs = part.specs()
  stem = _STEMS[part.name]
  files = _fitting_files(part.pieces, source_files, stem)
  files = files or assign_shards(specs, stem)
  write_folder(folder, specs, files, stem=stem, read=read)


def verify_component(
  part: ComponentExport, tensors: Mapping[str, StoredTensor]
) -> None:
  """Compares exported tensors with our arrays, bit for bit.

  Raises:
    ConversionError: a number differs.
  """

  def check(slab) -> None:
    ours = part.read(slab.array, slab.block)
    kept = cast(slab.array, ours, part.kept_dtype(slab.array), CastCounter())
    check_slab(slab, kept, tensors, seed=None)

  all_slabs = slabs(list(part.pieces.values()), [], part.shapes)
  for_each_slab(all_slabs, check, lambda slab: None)


def _fitting_files(
  pieces: Mapping[str, Piece], files: Mapping[str, str] | None, stem: str
) -> dict[str, str] | None:
  """The source's own sharing-out, where it has all names in usual files."""
  usual = re.compile(re.escape(stem) + r"(-\d+-of-\d+)?\.safetensors")
  if files is None or not pieces.keys() <= files.keys():
    return None
  fitting = {name: files[name] for name in pieces}
  is_usual = all(usual.fullmatch(file) for file in fitting.values())
  return fitting if is_usual else None
