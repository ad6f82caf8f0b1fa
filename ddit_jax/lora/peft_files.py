"""Adapters as one safetensors file that PEFT and diffusers load, and back.

Names are diffusers' of SD3, e.g. "transformer.transformer_blocks.0.attn.to_q.
lora_A.weight" [rank, inputs] and "...lora_B.weight" [outputs, rank]; rank and
alpha stand in the file's metadata, where diffusers looks for them.
"""

import dataclasses
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict

from ddit_jax.conversion.components import array_shapes, counters, pattern_sizes
from ddit_jax.conversion.plan import Piece, expected_pieces
from ddit_jax.conversion.safetensors_files import read_header
from ddit_jax.conversion.transforms import our_index, to_ours, to_theirs
from ddit_jax.files import replace_file
from ddit_jax.lora.lora import LoraConfig, LoraNetwork, Path
from ddit_jax.models.config import MMDiTConfig
from ddit_jax.models.module import Network

# diffusers' `loaders.lora_base.LORA_ADAPTER_METADATA_KEY`.
METADATA_KEY = "lora_adapter_metadata"
PREFIX = "transformer."
# Fields of PEFT's LoraConfig that would change what an adapter computes.
_OTHER_KINDS = (
  "alpha_pattern",
  "rank_pattern",
  "use_rslora",
  "use_dora",
  "lora_bias",
)
# A kernel's pattern -> the patterns of "down" and "up": each keeps the
# kernel's on its own side and has the rank on the other.
_PLAIN = "o i -> i o"
_PATTERNS = {
  _PLAIN: (_PLAIN, _PLAIN),
  "(h d) i -> i q h d": (_PLAIN, "(h d) i -> i q h d"),
  "o (h d) -> h d o": ("o (h d) -> h d o", _PLAIN),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Tensor:
  """One tensor of the file and its place in the adapters."""

  name: str
  path: Path
  block: int | None
  pattern: str
  part: Mapping[str, int]

  def slab(self, arrays: Mapping[Path, np.ndarray]) -> np.ndarray:
    """The block of our array that it belongs to."""
    array = arrays[self.path]
    return array if self.block is None else array[self.block]

  def from_ours(self, arrays: Mapping[Path, np.ndarray]) -> np.ndarray:
    """The tensor, contiguous."""
    slab = self.slab(arrays)
    piece = slab[our_index(self.pattern, self.part)]
    theirs = to_theirs(
      self.pattern, piece, slab.shape, part=self.part, sizes={}
    )
    return np.ascontiguousarray(theirs)

  def into_ours(
    self,
    array: np.ndarray,
    arrays: Mapping[Path, np.ndarray],
    file: pathlib.Path,
  ) -> None:
    """Writes the tensor to its place; ValueError for another shape."""
    slab = self.slab(arrays)
    want = self.from_ours(arrays).shape
    if array.shape != want:
      raise ValueError(f"{file}: {self.name} is {array.shape}, not {want}")
    piece = to_ours(self.pattern, array, slab.shape, part=self.part, sizes={})
    slab[our_index(self.pattern, self.part)] = piece


def write_adapter(
  path: pathlib.Path, adapters: Any, *, config: MMDiTConfig, lora: LoraConfig
) -> dict[str, np.ndarray]:
  """Writes the file at once or not at all; returns its tensors by name.

  Args:
    path: ends in .safetensors.
    adapters: float32 arrays, see `adapters`.
    config: of the network below them.
    lora: their rank, scale and targets.
  """
  arrays = flatten_dict(adapters)
  tensors = {t.name: t.from_ours(arrays) for t in _tensors(config, lora)}
  modules = {name.rpartition(".lora_")[0] for name in tensors}
  alpha = int(lora.alpha) if float(lora.alpha).is_integer() else lora.alpha
  facts = {
    f"{PREFIX}r": lora.rank,
    f"{PREFIX}lora_alpha": alpha,
    f"{PREFIX}target_modules": sorted(m.removeprefix(PREFIX) for m in modules),
  }
  metadata = {"format": "pt", METADATA_KEY: json.dumps(facts)}
  replace_file(path, safetensors.numpy.save(tensors, metadata))
  return tensors


def read_adapter(
  path: pathlib.Path, config: MMDiTConfig
) -> tuple[LoraConfig, Any]:
  """Adapters of a file, float32 in numpy, and their settings.

  Without metadata alpha is the rank, as diffusers has it.

  Raises:
    ValueError: damage; tensors missing, unknown or of another shape; ranks
      that differ; q, k and v that do not share their lora_A.
  """
  stored = {
    name: tensor.read().astype(np.float32)
    for name, tensor in read_header(path).items()
  }
  lora = _lora_config(path, stored)
  expected = list(_tensors(config, lora))
  names = {tensor.name for tensor in expected}
  if wrong := sorted(stored.keys() ^ names):
    raise ValueError(
      f"{path}: {len(wrong)} tensors are missing or unknown, the first is "
      f"{wrong[0]}: it must adapt all blocks of this network alike"
    )
  arrays = {
    name: np.empty(shape, np.float32)
    for name, shape in _shapes(config, lora).items()
  }
  for tensor in expected:
    tensor.into_ours(stored[tensor.name], arrays, path)
  for tensor in expected:
    if not np.array_equal(tensor.from_ours(arrays), stored[tensor.name]):
      raise ValueError(
        f"{path}: {tensor.name} differs from its neighbours', but q, k and v "
        "share one lora_A here: merge this adapter into its base with PEFT"
      )
  return lora, unflatten_dict(arrays)


def _tensors(config: MMDiTConfig, lora: LoraConfig) -> Iterator[_Tensor]:
  """Every tensor of a file with adapters of this network."""
  for piece in _targeted(config, lora):
    _, *module, _ = piece.array.split("/")
    stem = PREFIX + piece.name.removesuffix(".weight")
    down, up = _PATTERNS[piece.pattern]
    for letter, leaf, pattern in (("A", "down", down), ("B", "up", up)):
      yield _Tensor(
        name=f"{stem}.lora_{letter}.weight",
        path=(*module, leaf),
        block=piece.block,
        pattern=pattern,
        part=piece.part,
      )


def _targeted(config: MMDiTConfig, lora: LoraConfig) -> Iterator[Piece]:
  """The adapted kernels' tensors in SD3's or D-DiT's naming."""
  is_ddit = config.is_last_text_block_full
  pieces = expected_pieces(
    "ddit_network" if is_ddit else "sd3_network",
    array_shapes(config),
    counts=counters(config),
    sizes=pattern_sizes(config),
  )
  modules = lora.modules
  for piece in pieces:
    names = tuple(piece.array.split("/"))
    if names[-1] == "kernel" and names[3:-1] in modules:
      yield piece


def _shapes(config: MMDiTConfig, lora: LoraConfig) -> dict[Path, tuple]:
  """Our arrays' shapes."""
  network = LoraNetwork(Network(config), lora)
  shapes = flatten_dict(network.abstract_variables()["params"])
  return {path: leaf.shape for path, leaf in shapes.items()}


def _lora_config(path: pathlib.Path, stored: Mapping[str, np.ndarray]):
  ranks = {a.shape[0] for n, a in stored.items() if n.endswith("A.weight")}
  if len(ranks) != 1:
    raise ValueError(f"{path} has adapters of ranks {sorted(ranks)}: want one")
  (rank,) = ranks
  with safetensors.safe_open(path, framework="numpy") as file:
    facts = json.loads((file.metadata() or {}).get(METADATA_KEY, "{}"))
  if other := [name for name in _OTHER_KINDS if facts.get(PREFIX + name)]:
    raise ValueError(
      f"{path} sets {', '.join(other)}, which is not read here: merge this "
      "adapter into its base with PEFT"
    )
  targets = [
    target
    for target, mark in (("attention", ".attn."), ("mlp", ".ff"))
    if any(mark in name for name in stored)
  ]
  return LoraConfig(
    rank=rank,
    alpha=facts.get(f"{PREFIX}lora_alpha", rank),
    targets=",".join(targets),
  )
