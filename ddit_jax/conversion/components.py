"""The five networks of a checkpoint: configuration, arrays and counters."""

import dataclasses
import functools
import types
from collections.abc import Mapping
from typing import Any

import jax

from ddit_jax.conversion import encoder_configs, network_config
from ddit_jax.encoders.clip import CLIPTextConfig, clip_text_encoder
from ddit_jax.encoders.t5 import T5Config, t5_encoder
from ddit_jax.encoders.vae import AutoencoderConfig, autoencoder
from ddit_jax.models.config import MMDiTConfig
from ddit_jax.models.module import Network

ComponentConfig = MMDiTConfig | T5Config | CLIPTextConfig | AutoencoderConfig

# Path of an array ("params/blocks/image/qkv/kernel") -> its shape.
ArrayShapes = Mapping[str, tuple[int, ...]]

_CONFIG_CLASSES: dict[str, type] = {
  "network": MMDiTConfig,
  "text_encoder": T5Config,
  "vae": AutoencoderConfig,
  "clip_l": CLIPTextConfig,
  "clip_g": CLIPTextConfig,
}


@functools.cache
def array_shapes(config: ComponentConfig) -> ArrayShapes:
  """Every array of a component; nothing is allocated."""
  match config:
    case MMDiTConfig():
      module = Network(config)
    case T5Config():
      module = t5_encoder(config)
    case CLIPTextConfig():
      module = clip_text_encoder(config)
    case AutoencoderConfig():
      module = autoencoder(config)
  leaves = jax.tree_util.tree_leaves_with_path(module.abstract_variables())
  shapes = {
    jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape
    for path, leaf in leaves
  }
  return types.MappingProxyType(shapes)


def counters(config: ComponentConfig) -> dict[str, int]:
  """How far the counters of the mapping's names run (see `rows`)."""
  if isinstance(config, AutoencoderConfig):
    return {
      "i": len(config.block_widths),
      "j": config.layers_per_block + 1,
      "m": 2,
    }
  return {"n": config.depth}


def pattern_sizes(config: ComponentConfig) -> dict[str, int]:
  """Sizes of pattern letters that no shape tells (see `transforms`)."""
  if isinstance(config, MMDiTConfig):
    return {"y": config.patch_size, "x": config.patch_size}
  return {}


def read_config(
  component: str, naming: str, tensors, json_config
) -> ComponentConfig:
  """The configuration of a component of a checkpoint.

  Args:
    component: "network", "text_encoder", "vae", "clip_l" or "clip_g".
    naming: the naming of its tensors.
    tensors: name to `StoredTensor`.
    json_config: its `JsonConfig`, or None for the single file.

  Raises:
    ConversionError: fields or tensors are missing or contradictory.
  """
  match component:
    case "network":
      return network_config.network_config(naming, tensors, json_config)
    case "text_encoder":
      return encoder_configs.t5_config(tensors, json_config)
    case "vae":
      return encoder_configs.vae_config(tensors, json_config)
    case "clip_l":
      return encoder_configs.clip_config(tensors, json_config, "L")
    case "clip_g":
      return encoder_configs.clip_config(tensors, json_config, "G")
  raise AssertionError(component)


def hub_json(config: ComponentConfig) -> dict[str, Any]:
  """A `config.json` that diffusers or transformers accepts.

  Raises:
    ConversionError: none of their classes computes this.
  """
  match config:
    case MMDiTConfig():
      return network_config.network_json(config)
    case T5Config():
      return encoder_configs.t5_json(config)
    case CLIPTextConfig():
      return encoder_configs.clip_json(config)
    case AutoencoderConfig():
      return encoder_configs.vae_json(config)


def config_to_record(config: ComponentConfig) -> dict[str, Any]:
  """JSON-able fields of a configuration."""
  fields = dataclasses.asdict(config)
  return {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}


def config_from_record(
  component: str, record: dict[str, Any]
) -> ComponentConfig:
  """The inverse of `config_to_record`.

  Raises:
    ValueError: a field is unknown or has an impossible value.
  """
  cls = _CONFIG_CLASSES[component]
  known = {field.name for field in dataclasses.fields(cls)}
  if unknown := sorted(set(record) - known):
    raise ValueError(f"{cls.__name__} has no {unknown}; it has {sorted(known)}")
  return cls(
    **{k: tuple(v) if isinstance(v, list) else v for k, v in record.items()}
  )
