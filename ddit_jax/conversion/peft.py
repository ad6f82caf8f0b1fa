"""Adapters as one safetensors file that PEFT and diffusers load, and back.

Keys are diffusers' of SD3, e.g. "transformer.transformer_blocks.0.attn.to_q.
lora_A.weight" [rank, inputs] and "...lora_B.weight" [outputs, rank]; rank and
alpha are in the file's metadata, where diffusers looks for them.
"""

import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict

from ddit_jax.conversion import rearrange
from ddit_jax.conversion.safetensors_io import read_header
from ddit_jax.conversion.slices import tensor_slices
from ddit_jax.files import replace_file
from ddit_jax.lora.lora import LoraConfig, LoraNetwork, Path
from ddit_jax.models.config import MMDiTConfig
from ddit_jax.models.module import Network

# diffusers' `loaders.lora_base.LORA_ADAPTER_METADATA_KEY`.
_METADATA_KEY = "lora_adapter_metadata"
_PREFIX = "transformer."
# Fields of PEFT's LoraConfig that would change what an adapter computes.
_UNSUPPORTED = (
  "alpha_pattern",
  "rank_pattern",
  "use_rslora",
  "use_dora",
  "lora_bias",
)
# A kernel's pattern -> the patterns of "down" and "up": each keeps the kernel's
# on its own side and has the rank on the other.
_LINEAR = "o i -> i o"
_PATTERNS = {
  _LINEAR: (_LINEAR, _LINEAR),
  "(r h d) i -> i r h d": (_LINEAR, "(r h d) i -> i r h d"),
  "o (h d) -> h d o": ("o (h d) -> h d o", _LINEAR),
}

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
  """Writes the file atomically; returns its tensors by key.

  Args:
    path: ends in .safetensors.
    adapters: float32 arrays, see `lora.lora`.
    config: of the network below them.
    lora: rank, scale and targets of the adapters.
  """
  arrays = flatten_dict(adapters)
  tensors = {t.key: t.theirs(arrays) for t in _tensors(config, lora)}
  modules = {key.rpartition(".lora_")[0] for key in tensors}
  alpha = int(lora.alpha) if float(lora.alpha).is_integer() else lora.alpha
  facts = {
    f"{_PREFIX}r": lora.rank,
    f"{_PREFIX}lora_alpha": alpha,
    f"{_PREFIX}target_modules": sorted(
      m.removeprefix(_PREFIX) for m in modules
    ),
  }
  metadata = {"format": "pt", _METADATA_KEY: json.dumps(facts)}
  replace_file(path, safetensors.numpy.save(tensors, metadata))
  return tensors


def read_adapter(
  path: pathlib.Path, config: MMDiTConfig
) -> tuple[LoraConfig, Any]:
  """Adapters of a file, float32 in NumPy, and their configuration.

  Without metadata alpha is the rank, as in diffusers.

  Raises:
    ValueError: a damaged file; tensors missing, unknown or of another shape;
      ranks that differ; q, k and v that do not share their lora_A.
  """
  stored = {
    key: tensor.read().astype(np.float32)
    for key, tensor in read_header(path).items()
  }
  lora = _lora_config(path, stored)
  expected = list(_tensors(config, lora))
  if wrong := sorted(stored.keys() ^ {tensor.key for tensor in expected}):
    raise ValueError(
      f"{path}: {len(wrong)} tensors are missing or unknown, the first is "
      f"{wrong[0]}: it must adapt all blocks of this network alike"
    )
  network = LoraNetwork(Network(config), lora)
  arrays = {
    name: np.empty(leaf.shape, np.float32)
    for name, leaf in flatten_dict(
      network.abstract_variables()["params"]
    ).items()
  }
  for tensor in expected:
    array, want = stored[tensor.key], tensor.theirs(arrays).shape
    if array.shape != want:
      raise ValueError(f"{path}: {tensor.key} is {array.shape}, not {want}")
    ours = tensor.ours(arrays)
    sizes = rearrange.axis_sizes(tensor.pattern, ours.shape, patch_size=1)
    ours[...] = rearrange.to_ours(tensor.pattern, array, sizes)
  for tensor in expected:
    if not np.array_equal(tensor.theirs(arrays), stored[tensor.key]):
      raise ValueError(
        f"{path}: {tensor.key} differs from its neighbours', but q, k and v "
        "share one lora_A here: merge this adapter into its base with PEFT"
      )
  return lora, unflatten_dict(arrays)


def _tensors(config: MMDiTConfig, lora: LoraConfig) -> Iterator[_AdapterTensor]:
  """Every tensor of a file with adapters of this network."""
  scheme = "ddit" if config.is_last_text_block_full else "sd3"
  for part in tensor_slices(scheme, config):
    array, number = part.block
    _, *module, leaf = array.split("/")
    if leaf != "kernel" or tuple(module[2:]) not in lora.modules:
      continue
    stem = _PREFIX + part.key.removesuffix(".weight")
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


def _lora_config(
  path: pathlib.Path, stored: Mapping[str, np.ndarray]
) -> LoraConfig:
  ranks = {a.shape[0] for n, a in stored.items() if n.endswith("A.weight")}
  if len(ranks) != 1:
    raise ValueError(f"{path} has adapters of ranks {sorted(ranks)}: want one")
  (rank,) = ranks
  with safetensors.safe_open(path, framework="numpy") as file:
    facts = json.loads((file.metadata() or {}).get(_METADATA_KEY, "{}"))
  if other := [name for name in _UNSUPPORTED if facts.get(_PREFIX + name)]:
    raise ValueError(
      f"{path} sets {', '.join(other)}, which is not supported: merge this "
      "adapter into its base with PEFT"
    )
  targets = [
    target
    for target, mark in (("attention", ".attn."), ("mlp", ".ff"))
    if any(mark in name for name in stored)
  ]
  return LoraConfig(
    rank=rank,
    alpha=facts.get(f"{_PREFIX}lora_alpha", rank),
    targets=",".join(targets),
  )
