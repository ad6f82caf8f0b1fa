"""Export: our arrays as a diffusers folder of SD3, or as a D-DiT folder.

The inverse of `convert`, from the same key map.
"""

import collections
import dataclasses
import functools
import math
import pathlib
import re
from collections.abc import Mapping

import numpy as np
from jaxtyping import Shaped

from ddit_jax.checkpoint.manifest import verify_manifest, write_manifest
from ddit_jax.conversion.configs import (
  ArrayShapes,
  NetworkConfig,
  array_shapes,
)
from ddit_jax.conversion.convert import (
  OnProgress,
  Outcome,
  check_block,
  for_each_block,
)
from ddit_jax.conversion.dtypes import (
  OUTPUT_DTYPES,
  CastCounter,
  cast,
  check_dtype,
)
from ddit_jax.conversion.formats import format_name, open_checkpoint
from ddit_jax.conversion.hub import (
  PIPELINES,
  config_json,
  write_plain_files,
)
from ddit_jax.conversion.key_map import FORMATS
from ddit_jax.conversion.rearrange import copy_into
from ddit_jax.conversion.record import read_record, read_source, report_lines
from ddit_jax.conversion.safetensors_io import (
  DTYPE_NAMES,
  STORED_DTYPES,
  StoredTensor,
  assign_shards,
  write_folder,
)
from ddit_jax.conversion.slices import (
  Block,
  TensorSlice,
  blocks_of,
  tensor_slices,
)
from ddit_jax.conversion.source_tree import check_outside
from ddit_jax.conversion.zarr_arrays import ZarrArrays
from ddit_jax.errors import InputError, first_few
from ddit_jax.files import appearing_folder, check_free_space, check_is_new
from ddit_jax.json_files import write_json

_FORMAT_OF_TARGET = {
  "sd3": "sd3_folder",
  "ddit": "ddit_folder",
  **{name: name for name, f in FORMATS.items() if f.model_types},
}
# Names of weight files in diffusers and in transformers.
_STEMS = {
  "network": "diffusion_pytorch_model",
  "vae": "diffusion_pytorch_model",
}
_TRANSFORMERS_STEM = "model"
# Between the q, k and v of one block, one other block is read.
_BLOCKS_KEPT = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportOptions:
  """Options of an export.

  Attributes:
    format: key or letter of the format, "a", "c", "g" or "v".
    dtype: "float32", "bfloat16", "float16", or None to keep what is stored.
    network_params: folder of other parameters of the network, as Orbax wrote
      them (those of a training run), instead of the checkpoint's own.
    is_verified: True reads both sides again and compares them.
  """

  format: str
  dtype: str | None = None
  network_params: pathlib.Path | None = None
  is_verified: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class _NetworkExport:
  """One network and the tensors it becomes.

  Attributes:
    name: "network", "text_encoder", ...
    config: its configuration.
    slices: key of a tensor -> the slice of our arrays that it comes from.
    shapes: path of our array -> its shape.
    arrays: "params", "constants" -> folder of arrays.
    dtype: dtype of all tensors, or None for that of the arrays.
  """

  name: str
  config: NetworkConfig
  slices: Mapping[str, TensorSlice]
  shapes: ArrayShapes
  arrays: Mapping[str, ZarrArrays]
  dtype: np.dtype | None

  def read(self, block: Block) -> Shaped[np.ndarray, "*block"]:
    """One block of one of our arrays."""
    collection, _, path = block[0].partition("/")
    return self.arrays[collection].block(path, block[1]).read().result()

  def dtype_of(self, array: str) -> np.dtype:
    """The dtype in which one of our arrays is exported."""
    collection, _, path = array.partition("/")
    return self.dtype or self.arrays[collection].array(path).dtype.numpy_dtype

  def array_bytes(self) -> list[int]:
    """Bytes of each array, exported."""
    return [
      math.prod(shape) * self.dtype_of(path).itemsize
      for path, shape in self.shapes.items()
    ]


def plan_export(
  checkpoint: pathlib.Path, options: ExportOptions
) -> list[_NetworkExport]:
  """Checks the checkpoint's hashes and opens what will be exported.

  Raises:
    InputError: an option is impossible, or arrays do not fit.
    CheckpointError: the checkpoint is damaged.
  """
  check_dtype(options.dtype)
  record = read_record(checkpoint)
  verify_manifest(checkpoint)
  name = format_name(options.format)
  fitting = _FORMAT_OF_TARGET[record.target]
  if name != fitting:
    raise InputError(
      f"{checkpoint} holds the network of {record.target}, which cannot be "
      f"written as {name}: use --export={FORMATS[fitting].letter}"
    )
  networks = []
  for network, config in record.configs.items():
    folders = {
      p.name: p for p in (checkpoint / network).iterdir() if p.is_dir()
    }
    if network == "network" and options.network_params is not None:
      folders["params"] = options.network_params
    _, scheme = FORMATS[name].networks[network]
    networks.append(
      _open_network(network, config, folders, scheme, options.dtype)
    )
  return networks


def export(
  checkpoint: pathlib.Path,
  networks: list[_NetworkExport],
  destination: pathlib.Path,
  options: ExportOptions,
  progress: OnProgress = lambda nbytes: None,
) -> Outcome:
  """Writes a folder of safetensors that PyTorch programs load.

  If the format is the source's own, tensors go into the same files as there;
  else into shards of five gigabytes.

  Args:
    checkpoint: what `convert` wrote.
    networks: what `plan_export` returned.
    destination: does not exist yet.
    options: as given to `plan_export`.
    progress: called with bytes written; the total is `export_bytes(networks)`.

  Raises:
    InputError: `destination` is taken, a value does not fit the dtype, or
      verification fails.
  """
  check_is_new(destination)
  check_outside(destination, [checkpoint])
  total = export_bytes(networks)
  check_free_space(destination, total, remedy="take a smaller --dtype")
  name = format_name(options.format)
  source = read_source(checkpoint)
  casts = CastCounter()
  with appearing_folder(destination) as folder:
    for network in networks:
      place = folder / FORMATS[name].networks[network.name][0]
      own_files = source["files"] if source["format"] == name else {}
      files = own_files.get(network.name, {})
      _write_network(network, place, files, casts, progress)
      kept = collections.Counter(map(network.dtype_of, network.shapes))
      stored = source["configs"].get(network.name, {})
      dtype = kept.most_common(1)[0][0].name
      fields = config_json(network.config, stored, dtype)
      write_json(place / "config.json", fields, indent=2)
    if name in PIPELINES:
      write_plain_files(checkpoint, folder, name)
    if options.is_verified:
      written = open_checkpoint(folder, name)
      for network in networks:
        _verify_network(network, written.networks[network.name].tensors)
    write_manifest(folder, extra={"source": str(checkpoint)})
  mapped = [
    (f"{n.name}/{part.block[0]}", math.prod(part.shape), f"-> {key}")
    for n in networks
    for key, part in n.slices.items()
  ]
  return Outcome(
    lines=report_lines({"mapped": mapped}, casts),
    nbytes=total,
    largest_array=max(max(n.array_bytes()) for n in networks),
  )


def export_bytes(networks: list[_NetworkExport]) -> int:
  """Bytes of all tensors."""
  return sum(sum(network.array_bytes()) for network in networks)


def _open_network(
  name: str,
  config: NetworkConfig,
  folders: Mapping[str, pathlib.Path],
  scheme: str,
  dtype: str | None,
) -> _NetworkExport:
  """Opens a network's arrays and compares them with its configuration."""
  shapes = array_shapes(config)
  arrays = {key: ZarrArrays(folder) for key, folder in folders.items()}
  found = {f"{key}/{path}" for key, a in arrays.items() for path in a.paths}
  if wrong := sorted(found ^ shapes.keys()):
    raise InputError(
      f"the arrays of {name} in {first_few(folders.values())} are not those of "
      f"its config.json: {first_few(wrong)} missing or unexpected; give those "
      "of the same network"
    )
  for path, shape in shapes.items():
    collection, _, rest = path.partition("/")
    stored = arrays[collection].array(rest).shape
    if stored != shape:
      raise InputError(
        f"array {path} of {name} has shape {stored}, its config.json says "
        f"{shape}: they belong to different checkpoints"
      )
  slices = {part.key: part for part in tensor_slices(scheme, config)}
  return _NetworkExport(
    name=name,
    config=config,
    slices=dict(sorted(slices.items())),
    shapes=shapes,
    arrays=arrays,
    dtype=None if dtype is None else STORED_DTYPES[OUTPUT_DTYPES[dtype]],
  )


def _write_network(
  network: _NetworkExport,
  folder: pathlib.Path,
  source_files: Mapping[str, str],
  casts: CastCounter,
  progress: OnProgress,
) -> None:
  # A folder of one network is there already.
  folder.mkdir(parents=True, exist_ok=True)
  read_block = functools.lru_cache(maxsize=_BLOCKS_KEPT)(network.read)

  def read(tensor: StoredTensor) -> Shaped[np.ndarray, "*tensor"]:
    part = network.slices[tensor.name]
    block = read_block(part.block)
    theirs = np.empty(tensor.shape, block.dtype)
    copy_into(theirs, part.to_theirs(block))
    progress(tensor.nbytes)
    return cast(tensor.name, theirs, STORED_DTYPES[tensor.dtype], casts)

  dtypes = {k: network.dtype_of(p.block[0]) for k, p in network.slices.items()}
  files = _usual_files(network, source_files) or assign_shards(
    {
      key: math.prod(part.shape) * dtypes[key].itemsize
      for key, part in network.slices.items()
    },
    _STEMS.get(network.name, _TRANSFORMERS_STEM),
  )
  tensors = [
    StoredTensor(
      name=key,
      file=folder / files[key],
      dtype=DTYPE_NAMES[dtypes[key]],
      shape=part.their_shape,
    )
    for key, part in network.slices.items()
  ]
  write_folder(folder, tensors, read)


def _usual_files(
  network: _NetworkExport, files: Mapping[str, str]
) -> Mapping[str, str] | None:
  """The source's files, if they hold all tensors and have the usual names."""
  stem = _STEMS.get(network.name, _TRANSFORMERS_STEM)
  usual = re.compile(re.escape(stem) + r"(-\d+-of-\d+)?\.safetensors")
  names = [files.get(key, "") for key in network.slices]
  return files if all(map(usual.fullmatch, names)) else None


def _verify_network(
  network: _NetworkExport, tensors: Mapping[str, StoredTensor]
) -> None:
  """Compares exported tensors with our arrays, bit for bit."""
  blocks = blocks_of(list(network.slices.values()), network.shapes)

  def check(block: Block) -> None:
    ours = cast(block[0], network.read(block), network.dtype_of(block[0]))
    check_block(blocks[block], ours, tensors)

  for_each_block(blocks, check)
