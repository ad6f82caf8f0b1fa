"""SD3's own pipeline from converted weights."""

import json
import logging
import pathlib

from jax.sharding import Mesh

from ddit_jax.conversion.json_config import JsonConfig
from ddit_jax.conversion.record import REPORT_NAME
from ddit_jax.data.prompt_tokenizers import (
  PromptTokenizer,
  clip_tokenizer,
  t5_prompt_tokenizer,
)
from ddit_jax.encoders.clip import clip_text_encoder
from ddit_jax.errors import InputError
from ddit_jax.experiment.config import SampleConfig
from ddit_jax.experiment.pretrained import PretrainedModel
from ddit_jax.models.mmdit import Execution
from ddit_jax.models.module import Network
from ddit_jax.pipelines.sd3 import Sd3Model, Sd3Pipeline
from ddit_jax.sampling.image_sampler import ImageSampling

_log = logging.getLogger(__name__)

_CLIPS = ("clip_l", "clip_g")
# The required parts of SD3; T5 is optional.
_NEEDED_PARTS = (
  *("network", "vae", *_CLIPS),
  *(f"tokenizer_{name}" for name in _CLIPS),
)
# As in diffusers.
_T5_LENGTH = 256
# The decoder's 128 features per pixel take half a gigabyte at 1024 x 1024.
BATCH_SIZE = 4
_SCHEDULER_FILE = "scheduler_config.json"
# Options of diffusers' FlowMatchEulerDiscreteScheduler that change the grid
# or add noise; SD3 uses none of them.
_UNKNOWN_OPTIONS = (
  "invert_sigmas",
  "shift_terminal",
  "stochastic_sampling",
  "use_beta_sigmas",
  "use_dynamic_shifting",
  "use_exponential_sigmas",
  "use_karras_sigmas",
)


def load_sd3(
  weights: PretrainedModel,
  mesh: Mesh,
  *,
  dtype: str = "float32",
  has_int8_t5: bool = False,
) -> Sd3Pipeline:
  """Loads the pipeline of plain SD3.

  Args:
    weights: converted with --target=sd3.
    mesh: the devices.
    dtype: dtype of the weights and the computation, "float32" or "bfloat16".
    has_int8_t5: True keeps T5's kernels as int8, see `encoders.int8`.

  Raises:
    ValueError: parts are missing, damaged, or do not belong together.
  """
  _check_parts(weights)
  tokenizers = _tokenizers(weights)
  sampling = scheduler_sampling(weights.folder / "scheduler")
  model = _model(weights, dtype, has_int8_t5)
  model.check_fits()
  config = model.network.config
  return Sd3Pipeline(
    tokenizers,
    model,
    {
      name: weights.restore(name, part, mesh)
      for name, part in model.parts().items()
    },
    mesh=mesh,
    sample=SampleConfig(image=sampling, batch_size=BATCH_SIZE),
    image_size=min(config.base_grid, config.max_grid) * model.pixels_per_patch,
  )


def _model(weights: PretrainedModel, dtype: str, has_int8_t5: bool) -> Sd3Model:
  configs, t5 = weights.record.configs, None
  if "text_encoder" in configs:
    t5 = weights.encoder("text_encoder", dtype, has_int8_kernels=has_int8_t5)
  else:
    _log.warning("%s has no T5: SD3 reads CLIP alone", weights.folder)
  return Sd3Model(
    network=Network(
      configs["network"], Execution(dtype=dtype), parameter_dtype=dtype
    ),
    text_encoder=t5,
    autoencoder=weights.encoder("vae", dtype),
    t5_length=_T5_LENGTH,
    **{
      name: clip_text_encoder(configs[name], dtype=dtype, parameter_dtype=dtype)
      for name in _CLIPS
    },
  )


def _tokenizers(weights: PretrainedModel) -> dict[str, PromptTokenizer]:
  """A tokenizer for each text encoder, whose table holds all of its ids."""
  folder, configs = weights.folder, weights.record.configs
  tokenizers = {
    name: clip_tokenizer(
      folder / f"tokenizer_{name}", length=configs[name].max_length
    )
    for name in _CLIPS
  }
  if "text_encoder" in configs:
    tokenizers["text_encoder"] = t5_prompt_tokenizer(
      folder / "tokenizer", _T5_LENGTH
    )
  for name, tokenizer in tokenizers.items():
    num_rows = configs[name].vocab_size
    if tokenizer.vocab_size > num_rows:
      raise InputError(
        f"{folder}: the {name} has {num_rows} token embeddings but its "
        f"tokenizer {tokenizer.vocab_size} ids: these belong to different "
        "checkpoints"
      )
  return tokenizers


def _check_parts(weights: PretrainedModel) -> None:
  """Raises InputError with the missing parts and the reasons."""
  folder = weights.folder
  needed = list(_NEEDED_PARTS)
  if "text_encoder" in weights.record.configs:
    needed.append("tokenizer")
  missing = [part for part in needed if not (folder / part).is_dir()]
  if not missing:
    return
  reasons = "; ".join(_reason(folder, part) for part in missing)
  raise InputError(
    f"{folder} cannot run as SD3: {reasons}. Convert a source that has "
    f"{', '.join(missing)}"
  )


def _reason(folder: pathlib.Path, part: str) -> str:
  """The converter's note about a missing part."""
  path = folder / REPORT_NAME
  notes = json.loads(path.read_bytes())["notes"] if path.is_file() else []
  found = (note for note in notes if note.startswith(f"{part} "))
  return next(found, f"{part} is not there")


def scheduler_sampling(folder: pathlib.Path) -> ImageSampling:
  """SD3's sampler on the grid of a scheduler's folder.

  Args:
    folder: holds `scheduler_config.json`; SD3's own values are used if the
      checkpoint has none.

  Raises:
    ValueError: the file is damaged, lacks a number or has one that is not
      finite and positive, or uses unsupported options.
  """
  path = folder / _SCHEDULER_FILE
  if not path.is_file():
    return ImageSampling()
  config = JsonConfig.read(path)
  used = [name for name in _UNKNOWN_OPTIONS if config.fields.get(name)]
  if used:
    raise ValueError(
      f"{path} sets {', '.join(used)}, which SD3 does not use and is not "
      "supported: use SD3's own scheduler"
    )
  return ImageSampling(
    shift=config.need("shift", float),
    num_train_timesteps=config.need("num_train_timesteps"),
  )
