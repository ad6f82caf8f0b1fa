"""The small files beside exported weights, as diffusers expects them."""

import pathlib
import shutil
from typing import Any

from ddit_jax.conversion.checkpoint_record import SourceRecord, write_json
from ddit_jax.conversion.components import ComponentConfig, hub_json
from ddit_jax.conversion.mapping import Layout

_T5_CLASS = ["transformers", "T5EncoderModel"]
_CLIP_CLASS = ["transformers", "CLIPTextModelWithProjection"]
_T5_TOKENIZER = ["transformers", "T5TokenizerFast"]
_CLIP_TOKENIZER = ["transformers", "CLIPTokenizer"]
_VAE_CLASS = ["diffusers", "AutoencoderKL"]
_SCHEDULER_CLASS = ["diffusers", "FlowMatchEulerDiscreteScheduler"]
_VERSION = "0.31.0"

# Their folder -> its class; a folder that is not there is written as null.
_PIPELINES: dict[str, dict[str, Any]] = {
  "sd3_folder": {
    "_class_name": "StableDiffusion3Pipeline",
    "scheduler": _SCHEDULER_CLASS,
    "text_encoder": _CLIP_CLASS,
    "text_encoder_2": _CLIP_CLASS,
    "text_encoder_3": _T5_CLASS,
    "tokenizer": _CLIP_TOKENIZER,
    "tokenizer_2": _CLIP_TOKENIZER,
    "tokenizer_3": _T5_TOKENIZER,
    "transformer": ["diffusers", "SD3Transformer2DModel"],
    "vae": _VAE_CLASS,
  },
  "ddit_folder": {
    "_class_name": "DualDiffSD3Pipeline",
    "scheduler": _SCHEDULER_CLASS,
    "text_encoder": _T5_CLASS,
    "tokenizer": _T5_TOKENIZER,
    "transformer": ["sd3_modules.sd3_model", "SD3JointModelFlexible"],
    "vae": _VAE_CLASS,
  },
}
_SD3_SCHEDULER = {
  "_class_name": "FlowMatchEulerDiscreteScheduler",
  "_diffusers_version": _VERSION,
  "num_train_timesteps": 1000,
  "shift": 3.0,
}
# What classes are called in a `config.json`, by either library.
_CLASS_FIELDS = ("_class_name", "architectures")
_DTYPE_FIELDS = ("torch_dtype", "dtype")


def component_json(
  name: str, config: ComponentConfig, source: SourceRecord, dtype: str
) -> dict[str, Any]:
  """A network's `config.json`: the source's own if the class is the same.

  Args:
    name: "network", "text_encoder", ...
    config: our configuration.
    source: where the checkpoint came from.
    dtype: dtype of the exported tensors.

  Raises:
    ConversionError: no known class computes this network.
  """
  fields = hub_json(config)
  stored = source.configs.get(name, {})
  if all(stored.get(key) == fields.get(key) for key in _CLASS_FIELDS):
    fields = stored
  is_transformers = "architectures" in fields
  if is_transformers and not any(key in fields for key in _DTYPE_FIELDS):
    fields = fields | {"torch_dtype": dtype}
  return fields | {key: dtype for key in _DTYPE_FIELDS if key in fields}


def write_plain_files(
  checkpoint: pathlib.Path, folder: pathlib.Path, name: str, layout: Layout
) -> None:
  """Copies tokenizers and scheduler, and writes `model_index.json`.

  Args:
    checkpoint: the converted checkpoint.
    folder: the export, its networks already written.
    name: key of the layout.
    layout: the layout.
  """
  for ours, theirs in layout.plain_folders.items():
    if (checkpoint / ours).is_dir():
      shutil.copytree(checkpoint / ours, folder / theirs)
  scheduler = folder / "scheduler"
  if not scheduler.is_dir():
    scheduler.mkdir()
    write_json(scheduler / "scheduler_config.json", _SD3_SCHEDULER)
  index: dict[str, Any] = {"_diffusers_version": _VERSION}
  for key, value in _PIPELINES[name].items():
    is_here = key == "_class_name" or (folder / key).is_dir()
    index[key] = value if is_here else [None, None]
  write_json(folder / "model_index.json", index)
