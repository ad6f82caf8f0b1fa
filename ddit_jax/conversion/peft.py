"""Our adapters as one safetensors file for PEFT and diffusers, and back.

Keys are diffusers' of SD3, e.g. "transformer.transformer_blocks.0.attn.to_q.
lora_A.weight" [rank, inputs] and "...lora_B.weight" [outputs, rank]. Programs
look for alpha in different places, or nowhere, and then take the rank: so the
files written here have alpha / rank in lora_B, and alpha is the rank.
"""

import json
import logging
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict

from ddit_jax.conversion import rearrange
from ddit_jax.conversion.adapter_file import (
  METADATA_KEY,
  PREFIX,
  AdapterFile,
  AdapterModule,
)
from ddit_jax.conversion.dtypes import cast
from ddit_jax.conversion.slices import Block, tensor_slices
from ddit_jax.errors import InputError, first_few
from ddit_jax.files import new_file
from ddit_jax.lora.lora import LoraConfig, LoraNetwork, Path
from ddit_jax.models.config import MMDiTConfig
from ddit_jax.models.module import Network

# A kernel's pattern -> the patterns of "down" and "up": each keeps the kernel's
# on its own side and has the rank on the other.
_LINEAR = "o i -> i o"
_PATTERNS = {
  _LINEAR: (_LINEAR, _LINEAR),
  "(r h d) i -> i r h d": (_LINEAR, "(r h d) i -> i r h d"),
  "o (h d) -> h d o": ("o (h d) -> h d o", _LINEAR),
}

_log = logging.getLogger(__name__)

_Arrays = Mapping[Path, np.ndarray]


class _AdapterTensor(NamedTuple):
  """One tensor of the file and its place in our adapters."""

  key: str
  path: Path
  block: int | None
  index: tuple[slice, ...]
  pattern: str

  def ours(self, arrays: _Arrays) -> np.ndarray:
    """A view of the slice of our arrays."""
    array = arrays[self.path]
    return (array if self.block is None else array[self.block])[self.index]

  def theirs(self, arrays: _Arrays) -> np.ndarray:
    """The tensor of the file, contiguous."""
    ours = self.ours(arrays)
    sizes = rearrange.axis_sizes(self.pattern, ours.shape, patch_size=1)
    theirs = rearrange.to_theirs(self.pattern, ours, sizes)
    return np.ascontiguousarray(theirs)


def write_adapter(
  path: pathlib.Path, adapters: Any, *, config: MMDiTConfig, lora: LoraConfig
) -> dict[str, np.ndarray]:
  """Writes a new file; returns its tensors by key.

  Args:
    path: ends in .safetensors.
    adapters: float32 arrays, see `lora.lora`.
    config: of the network below them.
    lora: rank, scale and targets of the adapters.

  Raises:
    InputError: an adapter holds NaN or an infinity; `path` exists, or another
      process is writing it.
  """
  arrays = flatten_dict(folded(adapters, lora))
  tensors = {t.key: t.theirs(arrays) for t in _tensors(config, lora)}
  for key, tensor in tensors.items():
    cast(key, tensor, tensor.dtype)
  modules = {key.rpartition(".lora_")[0] for key in tensors}
  facts = {
    f"{PREFIX}r": lora.rank,
    f"{PREFIX}lora_alpha": lora.rank,
    f"{PREFIX}target_modules": sorted(m.removeprefix(PREFIX) for m in modules),
  }
  metadata = {"format": "pt", METADATA_KEY: json.dumps(facts)}
  with new_file(path) as file:
    file.write(safetensors.numpy.save(tensors, metadata))
  return tensors


def folded(adapters: Any, lora: LoraConfig) -> Any:
  """The adapters with `lora.scale` multiplied into each "up"."""
  scale = np.float32(lora.scale)
  return unflatten_dict(
    {
      path: array * scale if path[-1] == "up" else array
      for path, array in flatten_dict(adapters).items()
    }
  )


def read_adapter(
  path: pathlib.Path, config: MMDiTConfig
) -> tuple[LoraConfig, Any]:
  """Adapters of a file, float32 in NumPy, and their configuration.

  See `adapter_file` for whose files are read; what is not used is logged. q, k
  and v are one kernel here and share one "down": where a file has three, they
  become one of the sum of their ranks, with zeros in "up". Kernels that are
  adapted with a lower rank than others, or not at all, get zeros, too. Every
  product stays as it is.

  Raises:
    InputError: see `AdapterFile.open`; modules that no adapter here has, such
      as modulations; a rank that is larger than a kernel.
  """
  file = AdapterFile.open(path, config)
  groups = _kernels(file)
  rank = max(map(_joint_rank, groups.values()))
  scales = {module.scale for module in file.modules}
  # A single scale is kept as alpha, and the values as they are.
  is_uniform = len(scales) == 1
  lora = LoraConfig(
    rank=rank,
    alpha=rank * (scales.pop() if is_uniform else 1.0),
    targets=_targets(groups),
  )
  try:
    network = LoraNetwork(Network(config), lora)
  except ValueError as error:
    raise InputError(f"{path}: {error}") from error
  shapes = flatten_dict(network.abstract_variables()["params"])
  arrays = {n: np.zeros(s.shape, np.float32) for n, s in shapes.items()}
  for (array, number), modules in groups.items():
    kernel = tuple(array.split("/")[1:-1])
    down, up = (
      arrays[(*kernel, name)]
      if number is None
      else arrays[(*kernel, name)][number]
      for name in ("down", "up")
    )
    _fill(modules, down, up, is_scaled=not is_uniform)
  for note in file.notes():
    _log.info("%s", note)
  return lora, unflatten_dict(arrays)


def _kernels(file: AdapterFile) -> dict[Block, list[AdapterModule]]:
  """The modules of every adapted kernel, in the order of its rows."""
  groups: dict[Block, list[AdapterModule]] = {}
  wanted = LoraConfig(rank=1, targets="attention,mlp").modules
  others = []
  for module in file.modules:
    path = tuple(module.part.block[0].split("/"))
    if path[1] not in ("blocks", "last_block") or path[3:-1] not in wanted:
      others.append(module.name)
    groups.setdefault(module.part.block, []).append(module)
  if others:
    raise InputError(
      f"{file.path} adapts {first_few(others)}: adapters here are of attention "
      "and MLPs; merge it with tools/convert_sd3_weights.py --lora"
    )
  return {
    block: sorted(modules, key=lambda m: m.part.rows.start or 0)
    for block, modules in groups.items()
  }


def _targets(groups: Mapping[Block, list[AdapterModule]]) -> str:
  is_mlp = {"/mlp/" in array for array, _ in groups}
  names = (("attention", False), ("mlp", True))
  return ",".join(name for name, kind in names if kind in is_mlp)


def _shared(modules: list[AdapterModule]) -> list[np.ndarray]:
  """The different "down" matrices of a kernel."""
  found: list[np.ndarray] = []
  for module in modules:
    down, _ = module.matrices()
    if not any(np.array_equal(down, other) for other in found):
      found.append(down)
  return found


def _joint_rank(modules: list[AdapterModule]) -> int:
  return sum(map(len, _shared(modules)))


def _fill(
  modules: list[AdapterModule],
  down: np.ndarray,
  up: np.ndarray,
  *,
  is_scaled: bool,
) -> None:
  """Writes a kernel's modules into its two arrays, which hold zeros."""
  shared = _shared(modules)
  starts = np.cumsum([0, *map(len, shared)])
  for module in modules:
    theirs, product = module.matrices()
    which = next(
      i for i, one in enumerate(shared) if np.array_equal(one, theirs)
    )
    ranks = slice(starts[which], starts[which + 1])
    if is_scaled:
      product = product * np.float32(module.scale)
    down_pattern, up_pattern = _PATTERNS[module.part.pattern]
    ours = down[..., ranks]
    ours[...] = _to_ours(down_pattern, theirs, ours.shape)
    ours = up[(ranks, *rearrange.index_of(up_pattern, module.part.rows)[1:])]
    ours[...] = _to_ours(up_pattern, product, ours.shape)


def _to_ours(
  pattern: str, theirs: np.ndarray, shape: tuple[int, ...]
) -> np.ndarray:
  sizes = rearrange.axis_sizes(pattern, shape, patch_size=1)
  return rearrange.to_ours(pattern, theirs, sizes)


def _tensors(config: MMDiTConfig, lora: LoraConfig) -> Iterator[_AdapterTensor]:
  """Every tensor of a file with adapters of this network."""
  scheme = "ddit" if config.is_last_text_block_full else "sd3"
  for part in tensor_slices(scheme, config):
    array, number = part.block
    _, *module, leaf = array.split("/")
    if leaf != "kernel" or tuple(module[2:]) not in lora.modules:
      continue
    stem = PREFIX + part.key.removesuffix(".weight")
    for letter, leaf, pattern in zip(
      "AB", ("down", "up"), _PATTERNS[part.pattern], strict=True
    ):
      yield _AdapterTensor(
        key=f"{stem}.lora_{letter}.weight",
        path=(*module, leaf),
        block=number,
        index=rearrange.index_of(pattern, part.rows),
        pattern=pattern,
      )
