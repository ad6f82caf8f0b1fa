"""Converted weights of the untouched SD3 to the pipeline that draws."""

import json
import logging
import pathlib

from jax.sharding import Mesh

from ddit_jax.conversion.checkpoint_record import read_record
from ddit_jax.conversion.convert import REPORT_NAME
from ddit_jax.data.clip_tokenizers import clip_tokenizer
from ddit_jax.data.prompt_tokenizers import PromptTokenizer, t5_prompt_tokenizer
from ddit_jax.encoders.clip import clip_text_encoder
from ddit_jax.experiment.converted import ConvertedWeights
from ddit_jax.experiment.sd3_model import Sd3Model
from ddit_jax.experiment.sd3_pipeline import Sd3Pipeline
from ddit_jax.experiment.sd3_schedule import sampling_path
from ddit_jax.input_error import InputError, preparing
from ddit_jax.models.mmdit import Execution
from ddit_jax.models.network import Network
from ddit_jax.settings import SampleSettings

_log = logging.getLogger(__name__)

CLIPS = ("clip_l", "clip_g")
# What SD3 cannot draw without; T5 it can.
NEEDED_PARTS = (
  *("network", "vae", *CLIPS),
  *(f"tokenizer_{name}" for name in CLIPS),
)
# T5's input in diffusers.
T5_LENGTH = 256
# The decoder keeps 128 features a pixel: half a gigabyte of 1024 x 1024.
IMAGES_AT_ONCE = 4


def holds_sd3(path: str | pathlib.Path) -> bool:
  """True if `path` holds converted weights of plain SD3.

  Raises:
    InputError: it holds converted weights that cannot be read.
  """
  if not ConvertedWeights.is_at(path):
    return False
  with preparing():
    return read_record(pathlib.Path(path)).target == "sd3"


def refuse_sd3(path: str | pathlib.Path, purpose: str) -> None:
  """Raises InputError if a purpose needs a text head and `path` has plain SD3.

  Args:
    path: a checkpoint.
    purpose: what it shall be used for, for the message.
  """
  if holds_sd3(path):
    raise InputError(
      f"{path} holds plain SD3, which only draws (--task=t2i): {purpose} needs "
      "a text head; convert the source with --target=ddit and train it"
    )


def sd3_pipeline(
  weights: ConvertedWeights, mesh: Mesh, *, dtype: str = "float32"
) -> Sd3Pipeline:
  """The pipeline of plain SD3.

  Args:
    weights: converted with --target=sd3.
    mesh: the devices.
    dtype: in which weights are held and computed, "float32" or "bfloat16".

  Raises:
    ValueError: parts are missing, damaged, or do not belong together.
  """
  _check_parts(weights)
  tokenizers = _tokenizers(weights)
  path = sampling_path(weights.folder / "scheduler")
  model = _model(weights, dtype)
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
    path=path,
    sample=SampleSettings(shift=path.shift, batch_size=IMAGES_AT_ONCE),
    image_size=min(config.base_grid, config.max_grid) * model.pixels_per_patch,
  )


def _model(weights: ConvertedWeights, dtype: str) -> Sd3Model:
  configs = weights.record.configs
  has_t5 = "text_encoder" in configs
  if not has_t5:
    _log.warning("%s has no T5: SD3 reads CLIP alone", weights.folder)
  return Sd3Model(
    network=Network(
      configs["network"], Execution(dtype=dtype), parameter_dtype=dtype
    ),
    text_encoder=weights.encoder("text_encoder", dtype) if has_t5 else None,
    autoencoder=weights.encoder("vae", dtype),
    t5_length=T5_LENGTH,
    **{
      name: clip_text_encoder(configs[name], dtype=dtype, parameter_dtype=dtype)
      for name in CLIPS
    },
  )


def _tokenizers(weights: ConvertedWeights) -> dict[str, PromptTokenizer]:
  """A tokenizer for each text encoder, whose table holds all of its ids."""
  folder, configs = weights.folder, weights.record.configs
  tokenizers = {
    name: clip_tokenizer(
      folder / f"tokenizer_{name}", length=configs[name].max_length
    )
    for name in CLIPS
  }
  if "text_encoder" in configs:
    tokenizers["text_encoder"] = t5_prompt_tokenizer(
      folder / "tokenizer", T5_LENGTH
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


def _check_parts(weights: ConvertedWeights) -> None:
  """Raises InputError that says which parts are missing, and why."""
  folder = weights.folder
  needed = list(NEEDED_PARTS)
  if "text_encoder" in weights.record.configs:
    needed.append("tokenizer")
  missing = [part for part in needed if not (folder / part).is_dir()]
  if not missing:
    return
  reasons = "; ".join(_reason(folder, part) for part in missing)
  raise InputError(
    f"{folder} cannot draw as SD3: {reasons}. Convert a source that has "
    f"{', '.join(missing)}"
  )


def _reason(folder: pathlib.Path, part: str) -> str:
  """What the converter noted about a part that is not there."""
  path = folder / REPORT_NAME
  notes = json.loads(path.read_bytes())["notes"] if path.is_file() else []
  found = (note for note in notes if note.startswith(f"{part} "))
  return next(found, f"{part} is not there")
