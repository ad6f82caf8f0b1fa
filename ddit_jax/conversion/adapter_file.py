"""Adapter files (LoRA) of several trainers, as changes of our arrays.

They agree on the product, weight + scale * up @ down, and differ in names:

  PEFT, diffusers   [transformer.]transformer_blocks.0.attn.to_q.lora_A.weight
  OneTrainer        lora_transformer_transformer_blocks_0_attn_to_q.lora_down...
  kohya             lora_unet_joint_blocks_0_x_block_attn_qkv.lora_down.weight
  ComfyUI           diffusion_model.joint_blocks.0.x_block.attn.qkv.lora_A...
"""

import dataclasses
import functools
import math
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from ddit_jax.conversion.configs import ddit_config
from ddit_jax.conversion.dtypes import INPUT_DTYPES, cast
from ddit_jax.conversion.safetensors_io import (
  StoredTensor,
  read_header,
  read_metadata,
)
from ddit_jax.conversion.slices import TensorSlice, tensor_slices
from ddit_jax.errors import InputError, first_few
from ddit_jax.files import read_regular
from ddit_jax.json_files import parse_json
from ddit_jax.models.config import MMDiTConfig

# diffusers' `loaders.lora_base.LORA_ADAPTER_METADATA_KEY`.
METADATA_KEY = "lora_adapter_metadata"
PREFIX = "transformer."
# PEFT's file, and its configuration beside it.
_PEFT_FILE, _PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
_FILES = (_PEFT_FILE, "pytorch_lora_weights.safetensors")
_TENSOR = re.compile(
  r"(?P<module>.+)\.(?:"
  r"(?P<down>lora_A|lora_down|lora\.down)(?:\.\w+)?\.weight|"
  r"(?P<up>lora_B|lora_up|lora\.up)(?:\.\w+)?\.weight|"
  r"(?P<alpha>alpha))"
)
# Before a module's name, with "_" for ".".
_PREFIXES = (
  "",
  "transformer_",
  "base_model_model_",
  "base_model_model_transformer_",
  "diffusion_model_",
  "model_diffusion_model_",
  "lora_unet_",
  "lora_transformer_",
)
_TEXT_ENCODERS = ("text_encoder", "lora_te", "text_model.")
# What the names of other methods' tensors hold.
_OTHER_METHODS = {
  "lora_magnitude_vector": "DoRA",
  "dora_scale": "DoRA",
  "lokr_": "LoKr",
  "hada_": "LoHa",
  "oft_": "OFT",
  "bias": "biases",
}
# Fields of PEFT's LoraConfig with which it computes something else.
_UNSUPPORTED = ("use_dora", "lora_bias")
_MERGE = "merge it into its base with the program that made it"


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdapterModule:
  """One adapted matrix: their weight + scale * up @ down.

  Attributes:
    name: in the file.
    part: the slice of our arrays that the matrix is.
    down: [rank, inputs...].
    up: [outputs, rank, ...].
    scale: alpha / rank, or what the file says instead.
  """

  name: str
  part: TensorSlice
  down: StoredTensor
  up: StoredTensor
  scale: float

  def matrices(self) -> tuple[np.ndarray, np.ndarray]:
    """(down [rank, inputs], up [outputs, rank]) in float32, without the scale.

    Raises:
      InputError: a NaN or an infinity.
    """
    down, up = (
      cast(tensor.label, tensor.read(), np.dtype(np.float32))
      for tensor in (self.down, self.up)
    )
    return down.reshape(len(down), -1), up.reshape(len(up), -1)

  def change(self) -> np.ndarray:
    """What is added to our slice, float32."""
    down, up = self.matrices()
    product = np.float32(self.scale) * (up @ down)
    return self.part.to_ours(product.reshape(self.part.their_shape))


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdapterFile:
  """A file's adapters of one network.

  Attributes:
    path: of the file.
    modules: the adapted matrices.
    unused: (tensor, reason) of all others.
  """

  path: pathlib.Path
  modules: tuple[AdapterModule, ...]
  unused: tuple[tuple[StoredTensor, str], ...]

  @classmethod
  def open(cls, path: pathlib.Path, config: MMDiTConfig) -> "AdapterFile":
    """Reads a file's header and finds the matrices of a network.

    Without an alpha, the scale is 1, as in other programs.

    Args:
      path: the file, or the folder in which PEFT or diffusers put it.
      config: of the network.

    Raises:
      InputError: damage; not only products of two matrices; unknown modules,
        or of other shapes.
    """
    if path.is_dir():
      path = next(
        (path / name for name in _FILES if (path / name).exists()),
        path / _FILES[0],
      )
    groups, unused = _groups(path)
    facts, table = _facts(path), _names(config)
    siblings = _names(_sibling(config))
    modules, unknown = [], []
    for name, tensors in groups.items():
      plain = name.replace(".", "_")
      if plain in table:
        modules.append(_module(name, tensors, table[plain], facts))
      elif plain in siblings:
        reason = "a layer that SD3 or D-DiT has and this network has not"
        unused += [(tensor, reason) for tensor in tensors.values()]
      else:
        unknown.append(name)
    if unknown:
      raise InputError(
        f"{path} adapts {len(unknown)} matrices that this network lacks "
        f"({first_few(unknown)}): it was trained on another model"
      )
    if not modules:
      seen = first_few(tensor.name for tensor, _ in unused) or "it is empty"
      raise InputError(f"{path} adapts nothing of this network ({seen})")
    return cls(path=path, modules=tuple(modules), unused=tuple(unused))

  def notes(self) -> list[str]:
    """What was used, and by reason what was not, one line each."""
    reasons: dict[str, list[str]] = {}
    for tensor, reason in self.unused:
      reasons.setdefault(reason, []).append(tensor.name)
    return [f"{self.path}: {len(self.modules)} adapted matrices"] + [
      f"{self.path}: {len(names)} tensors unused, {reason}: {first_few(names)}"
      for reason, names in reasons.items()
    ]


def _groups(
  path: pathlib.Path,
) -> tuple[dict[str, dict[str, StoredTensor]], list]:
  """Module -> "down", "up", "alpha" -> tensor; and those of text encoders."""
  groups: dict[str, dict[str, StoredTensor]] = {}
  unused, others = [], []
  for name, tensor in read_header(path).items():
    found = _TENSOR.fullmatch(name)
    if name.startswith(_TEXT_ENCODERS):
      unused.append((tensor, "adapts a text encoder, which stays as it is"))
    elif not found:
      others.append(name)
    elif found.lastgroup in groups.setdefault(found["module"], {}):
      raise InputError(
        f"{path} has two adapters of {found['module']}: {_MERGE}"
      )
    else:
      groups[found["module"]][found.lastgroup] = tensor
  if others:
    methods = [
      method
      for part, method in _OTHER_METHODS.items()
      if any(part in name for name in others)
    ]
    what = " and ".join(dict.fromkeys(methods)) or "an unknown kind"
    raise InputError(
      f"{path} is an adapter of {what}, which is not supported: "
      f"{len(others)} of its tensors are no product of two matrices "
      f"({first_few(others)}); {_MERGE}"
    )
  return groups, unused


def _facts(path: pathlib.Path) -> dict[str, Any]:
  """Fields of PEFT's LoraConfig, from the file or beside it."""
  source, text = path, read_metadata(path).get(METADATA_KEY)
  if text is None and path.name == _PEFT_FILE:
    source = path.with_name(_PEFT_CONFIG)
    text = read_regular(source) if source.exists() else None
  try:
    facts = parse_json(text) if text is not None else {}
  except InputError:
    raise
  except ValueError as error:
    raise InputError(
      f"{source}: its LoraConfig is damaged ({error})"
    ) from error
  if not isinstance(facts, dict):
    raise InputError(f"{source}: its LoraConfig is no JSON table: {_MERGE}")
  facts = {name.removeprefix(PREFIX): value for name, value in facts.items()}
  if other := [name for name in _UNSUPPORTED if facts.get(name)]:
    raise InputError(
      f"{path} sets {', '.join(other)}, which is not supported: {_MERGE}"
    )
  return facts


def _module(
  name: str,
  tensors: Mapping[str, StoredTensor],
  candidates: list[TensorSlice],
  facts: Mapping[str, Any],
) -> AdapterModule:
  if missing := {"down", "up"} - tensors.keys():
    raise InputError(
      f"adapter {name} lacks its {first_few(sorted(missing))} matrix: the file "
      "is incomplete; fetch it again"
    )
  down, up = tensors["down"], tensors["up"]
  for tensor in (down, up):
    if tensor.dtype not in INPUT_DTYPES:
      raise InputError(
        f"tensor {tensor.label} has dtype {tensor.dtype}; adapters may be "
        f"{', '.join(INPUT_DTYPES)}"
      )
  rank = down.shape[0] if down.shape else 0
  wanted = [_matrix_shapes(part, rank) for part in candidates]
  shapes = (_flat_shape(down.shape), _flat_shape(up.shape))
  if not rank or shapes not in wanted:
    raise InputError(
      f"adapter {name} is {list(down.shape)} and {list(up.shape)}, which does "
      f"not fit this network's {list(candidates[0].their_shape)}: it was "
      "trained on another model"
    )
  return AdapterModule(
    name=name,
    part=candidates[wanted.index(shapes)],
    down=down,
    up=up,
    scale=_scale(name, rank, tensors.get("alpha"), facts),
  )


def _flat_shape(shape: tuple[int, ...]) -> tuple[int, int]:
  """Convolutions' adapters have further dimensions."""
  return (shape[0], math.prod(shape[1:])) if shape else (0, 0)


def _matrix_shapes(part: TensorSlice, rank: int):
  outputs, inputs = _flat_shape(part.their_shape)
  return ((rank, inputs), (outputs, rank))


def _scale(
  name: str, rank: int, tensor: StoredTensor | None, facts: Mapping[str, Any]
) -> float:
  """alpha / rank; alpha of its own tensor goes before PEFT's fields."""
  alpha: Any = rank
  if tensor is not None:
    values = tensor.read().reshape(-1)[:2].tolist()
    alpha = values[0] if len(values) == 1 else values
  elif facts.get("lora_alpha") is not None:
    alpha = _patterned(name, facts, facts["lora_alpha"])
  is_number = type(alpha) in (int, float)
  if not (is_number and 0 < alpha < math.inf):
    raise InputError(
      f"adapter {name} has alpha {alpha!r}: it must be finite and positive"
    )
  return alpha / (math.sqrt(rank) if facts.get("use_rslora") else rank)


def _patterned(name: str, facts: Mapping[str, Any], alpha: Any) -> Any:
  """The alpha that PEFT's `alpha_pattern` gives one module."""
  patterns = facts.get("alpha_pattern") or {}
  for pattern in patterns:
    plain = str(pattern).removeprefix("^").removesuffix("$")
    if not re.fullmatch(r"[\w.]+", plain):
      raise InputError(
        f"alpha_pattern {pattern!r} is a regular expression, not a module's "
        f"name: {_MERGE}"
      )
    if f".{name}".endswith(f".{plain}"):
      return patterns[pattern]
  return alpha


def _sibling(config: MMDiTConfig) -> MMDiTConfig:
  """SD3's network for a D-DiT, and the other way round."""
  if not config.is_last_text_block_full:
    return ddit_config(config, vocab_size=1)
  return dataclasses.replace(
    config,
    context_dim=config.context_dim or 1,
    vocab_size=0,
    pooled_dim=1,
    is_last_text_block_full=False,
  )


@functools.cache
def _names(config: MMDiTConfig) -> dict[str, list[TensorSlice]]:
  """Every way to name one of a network's weights -> what it may be.

  SD3's last text modulation has fewer rows than D-DiT's of the same name.
  """
  schemes = ("sd3", "stability")
  if config.is_last_text_block_full:
    schemes = ("ddit", "sd3_to_ddit", "stability_to_ddit")
  table: dict[str, list[TensorSlice]] = {}
  for scheme in schemes:
    for part in tensor_slices(scheme, config):
      if part.key and part.key.endswith(".weight"):
        plain = part.key.removesuffix(".weight").replace(".", "_")
        for prefix in _PREFIXES:
          table.setdefault(prefix + plain, []).append(part)
  return table
