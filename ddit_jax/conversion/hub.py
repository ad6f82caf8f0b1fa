"""The small files of an exported folder, as diffusers and transformers expect.

The network's `config.json`, `model_index.json`, tokenizers and scheduler.
"""

import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

from ddit_jax.conversion.configs import HUB_FIELDS, NetworkConfig
from ddit_jax.conversion.key_map import FORMATS
from ddit_jax.encoders.clip import CLIPTextConfig
from ddit_jax.encoders.clip_vision import CLIPVisionConfig
from ddit_jax.encoders.t5 import T5Config
from ddit_jax.encoders.vae import AutoencoderConfig
from ddit_jax.errors import InputError
from ddit_jax.json_files import write_json
from ddit_jax.models.config import MMDiTConfig
from ddit_jax.models.gpt2 import GPT2Config

_T5 = ["transformers", "T5EncoderModel"]
_CLIP = ["transformers", "CLIPTextModelWithProjection"]
_T5_TOKENIZER = ["transformers", "T5TokenizerFast"]
_CLIP_TOKENIZER = ["transformers", "CLIPTokenizer"]
_VAE = ["diffusers", "AutoencoderKL"]
_SCHEDULER = ["diffusers", "FlowMatchEulerDiscreteScheduler"]
_VERSION = "0.31.0"
# Of formats with several networks: diffusers' folder -> its class; a missing
# folder is written as null.
PIPELINES: dict[str, dict[str, Any]] = {
  "sd3_folder": {
    "_class_name": "StableDiffusion3Pipeline",
    "scheduler": _SCHEDULER,
    "text_encoder": _CLIP,
    "text_encoder_2": _CLIP,
    "text_encoder_3": _T5,
    "tokenizer": _CLIP_TOKENIZER,
    "tokenizer_2": _CLIP_TOKENIZER,
    "tokenizer_3": _T5_TOKENIZER,
    "transformer": ["diffusers", "SD3Transformer2DModel"],
    "vae": _VAE,
  },
  "ddit_folder": {
    "_class_name": "DualDiffSD3Pipeline",
    "scheduler": _SCHEDULER,
    "text_encoder": _T5,
    "tokenizer": _T5_TOKENIZER,
    "transformer": ["sd3_modules.sd3_model", "SD3JointModelFlexible"],
    "vae": _VAE,
  },
}
_SD3_SCHEDULER = {
  "_class_name": "FlowMatchEulerDiscreteScheduler",
  "_diffusers_version": _VERSION,
  "num_train_timesteps": 1000,
  "shift": 3.0,
}
# What these classes' networks always are.
_FIXED_FIELDS: dict[type, dict[str, Any]] = {
  T5Config: {
    "architectures": ["T5EncoderModel"],
    "dense_act_fn": "gelu_new",
    "feed_forward_proj": "gated-gelu",
    "is_encoder_decoder": False,
    "is_gated_act": True,
    "model_type": "t5",
  },
  CLIPTextConfig: {
    "architectures": ["CLIPTextModelWithProjection"],
    "model_type": "clip_text_model",
  },
  CLIPVisionConfig: {
    "architectures": ["CLIPVisionModelWithProjection"],
    "model_type": "clip_vision_model",
  },
  GPT2Config: {
    "activation_function": "gelu_new",
    "architectures": ["GPT2LMHeadModel"],
    "model_type": "gpt2",
  },
  AutoencoderConfig: {
    "_class_name": "AutoencoderKL",
    "_diffusers_version": _VERSION,
    "act_fn": "silu",
    "force_upcast": True,
    "latents_mean": None,
    "latents_std": None,
    "sample_size": 1024,
    "use_post_quant_conv": False,
    "use_quant_conv": False,
  },
}
# SD3's pooled vector; D-DiT's config.json has the field but not the branch.
_POOLED_DIM = 2048
# Names of classes and dtypes in a `config.json`, by library.
_CLASS_FIELDS = ("_class_name", "architectures")
_DTYPE_FIELDS = ("torch_dtype", "dtype")


def config_json(
  config: NetworkConfig, stored: Mapping[str, Any], dtype: str
) -> dict[str, Any]:
  """A network's `config.json`: the source's own if the class is the same.

  Args:
    config: our configuration.
    stored: the source's `config.json`, or {}.
    dtype: dtype of the exported tensors.

  Raises:
    InputError: no known class computes this network.
  """
  fields = dict(sorted(hub_json(config).items()))
  if all(stored.get(key) == fields.get(key) for key in _CLASS_FIELDS):
    fields = dict(stored)
  is_transformers = "architectures" in fields
  if is_transformers and not any(key in fields for key in _DTYPE_FIELDS):
    fields["torch_dtype"] = dtype
  return fields | {key: dtype for key in _DTYPE_FIELDS if key in fields}


def write_plain_files(
  checkpoint: pathlib.Path, folder: pathlib.Path, format_name: str
) -> None:
  """Copies tokenizers and scheduler, and writes `model_index.json`.

  Args:
    checkpoint: the converted checkpoint.
    folder: the export, its networks already written.
    format_name: a key of `PIPELINES`.
  """
  for ours, theirs in FORMATS[format_name].plain_folders.items():
    if (checkpoint / ours).is_dir():
      shutil.copytree(checkpoint / ours, folder / theirs)
  scheduler = folder / "scheduler"
  if not scheduler.is_dir():
    scheduler.mkdir()
    write_json(scheduler / "scheduler_config.json", _SD3_SCHEDULER, indent=2)
  index: dict[str, Any] = {"_diffusers_version": _VERSION}
  for key, value in PIPELINES[format_name].items():
    is_here = key == "_class_name" or (folder / key).is_dir()
    index[key] = value if is_here else [None, None]
  write_json(folder / "model_index.json", index, indent=2)


def hub_json(config: NetworkConfig) -> dict[str, Any]:
  """A `config.json` from which diffusers or transformers builds the network.

  Raises:
    InputError: none of their classes supports this network.
  """
  fields: dict[str, Any] = {
    theirs: list(value) if isinstance(value, tuple) else value
    for ours, theirs in HUB_FIELDS[type(config)].items()
    for value in [getattr(config, ours)]
  }
  fields |= _FIXED_FIELDS.get(type(config), {})
  match config:
    case MMDiTConfig():
      return fields | _network_json(config)
    case CLIPTextConfig():
      return fields | {
        "bos_token_id": config.vocab_size - 2,
        "eos_token_id": config.vocab_size - 1,
      }
    case GPT2Config():
      return fields | {
        "n_inner": config.mlp_width,
        "bos_token_id": config.vocab_size - 1,
        "eos_token_id": config.vocab_size - 1,
      }
    case AutoencoderConfig():
      num_blocks = len(config.block_widths)
      return fields | {
        "down_block_types": ["DownEncoderBlock2D"] * num_blocks,
        "out_channels": config.image_channels,
        "up_block_types": ["UpDecoderBlock2D"] * num_blocks,
      }
  return fields


def _network_json(config: MMDiTConfig) -> dict[str, Any]:
  for field, is_wrong in (
    ("mlp_ratio", config.mlp_ratio != 4),
    ("has_qk_norm", config.has_qk_norm),
    ("context_dim", config.context_dim is None),
  ):
    if is_wrong:
      raise InputError(
        f"a network with {field} = {getattr(config, field)} is neither SD3 nor "
        "D-DiT: it cannot be exported"
      )
  is_ddit = config.is_last_text_block_full
  name = "SD3JointModelFlexible" if is_ddit else "SD3Transformer2DModel"
  fields = {
    "_class_name": name,
    "_diffusers_version": _VERSION,
    "attention_head_dim": config.head_dim,
    "caption_projection_dim": config.width,
    "dual_attention_layers": [],
    "out_channels": config.latent_channels,
    "pooled_projection_dim": config.pooled_dim or _POOLED_DIM,
    "qk_norm": None,
    "sample_size": config.base_grid * config.patch_size,
  }
  return fields | ({"vocab_size": config.vocab_size} if is_ddit else {})
