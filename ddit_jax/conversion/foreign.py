"""Checkpoints of other models and formats, recognised by name."""

import dataclasses
import pathlib
from collections.abc import Iterable
from typing import Any

from ddit_jax.conversion.errors import ConversionError


@dataclasses.dataclass(frozen=True)
class ForeignModel:
  """A model that is not SD3-medium or D-DiT.

  Attributes:
    title: its name.
    marks: pieces of tensor names, one of which it always has.
    reason: why it cannot be converted.
    way_out: what to do instead.
  """

  title: str
  marks: tuple[str, ...]
  reason: str
  way_out: str = "use SD3-medium or D-DiT"


_UNET = "its network is a U-Net, not an MM-DiT"
# The first that fits is named: special before general.
FOREIGN_MODELS = (
  ForeignModel(
    "a LoRA or adapter",
    ("lora_up.", "lora_A.", "lora_down."),
    "it holds differences to a model",
    "merge it into SD3-medium first",
  ),
  ForeignModel(
    "a checkpoint of scaled eight-bit floats",
    ("scaled_fp8", ".scale_weight", ".weight_scale"),
    "its numbers mean nothing without their scales",
    "use a file in fp16 or bf16, or in fp8 without scales",
  ),
  ForeignModel(
    "Flux",
    ("double_blocks.0.img_attn.", "single_transformer_blocks.0."),
    "its network has single-stream blocks, rotary positions and q/k norm",
  ),
  ForeignModel(
    "SD3.5 medium",
    ("x_block.attn2.", "transformer_blocks.0.attn2."),
    "it adds a second image self-attention to its first 13 blocks and "
    "RMS-normalises q and k",
  ),
  ForeignModel(
    "SD3.5 large",
    ("x_block.attn.ln_q.", "transformer_blocks.0.attn.norm_q."),
    "it RMS-normalises q and k, which SD3-medium does not",
  ),
  ForeignModel("SDXL", ("conditioner.embedders.", "label_emb.0."), _UNET),
  ForeignModel(
    "SD2",
    ("cond_stage_model.model.", "cond_stage_model.transformer.resb"),
    _UNET,
  ),
  ForeignModel("SD1.5", ("cond_stage_model.transformer.",), _UNET),
  ForeignModel(
    "a U-Net model", ("input_blocks.0.0.", "down_blocks.0.attentions."), _UNET
  ),
)
# How diffusers' `_class_name`s begin, of pipelines and of networks.
_KNOWN_CLASSES = ("StableDiffusion3", "SD3", "DualDiff")
_FOREIGN_CLASSES = (
  ("StableDiffusionXL", "SDXL", _UNET),
  ("StableDiffusion", "SD1.5 or SD2", _UNET),
  ("Flux", "Flux", FOREIGN_MODELS[2].reason),
)
PICKLE_SUFFIXES = (".pth", ".ckpt", ".pt", ".bin", ".pkl")
_RE_SAVE = (
  "which can run any code when it is read: re-save it once with "
  "torch.load(path, weights_only=True) and "
  "safetensors.torch.save_file(tensors, 'model.safetensors')"
)
_PICKLE = f"a PyTorch pickle under another name, {_RE_SAVE}"
_PAGE = "a web page: log in where it was fetched, and fetch it again"
# How files begin that are often found under the name of a .safetensors file.
_BEGINNINGS = (
  (b"version https://git-lfs", "a git-lfs pointer: run `git lfs pull` there"),
  (b"<!doctype", _PAGE),
  (b"<html", _PAGE),
  (b"pk\x03\x04", _PICKLE),
  (b"\x80\x02", _PICKLE),
  (b"gguf", "a GGUF file: fetch the same model as .safetensors"),
)
BEGINNING_BYTES = 32


def refuse_foreign_tensors(names: Iterable[str], where: Any) -> None:
  """Raises if tensor names are those of a known other model.

  Raises:
    ConversionError: the line names the model and says what differs.
  """
  names = list(names)
  for model in FOREIGN_MODELS:
    hits = (n for n in names if any(mark in n for mark in model.marks))
    if (hit := next(hits, None)) is not None:
      raise ConversionError(
        f"{where} is {model.title} (it has tensor {hit}): {model.reason}; "
        f"{model.way_out}"
      )


def refuse_foreign_class(class_name: Any, where: Any) -> None:
  """Raises if a `_class_name` is of another model; None is allowed.

  Raises:
    ConversionError: the line names the model and says what differs.
  """
  if class_name is None or str(class_name).startswith(_KNOWN_CLASSES):
    return
  for start, title, reason in _FOREIGN_CLASSES:
    if str(class_name).startswith(start):
      raise ConversionError(
        f"{where} is {title} (class {class_name}): {reason}; "
        f"{ForeignModel.way_out}"
      )
  raise ConversionError(
    f"{where} is a {class_name}, which is another model; {ForeignModel.way_out}"
  )


def refuse_pickle(path: pathlib.Path) -> None:
  """Raises if a file is of a kind that is not read.

  Raises:
    ConversionError: the line says how to re-save it, or what is read.
  """
  if path.suffix in PICKLE_SUFFIXES:
    raise ConversionError(f"{path} is a pickle, {_RE_SAVE}")
  if path.suffix != ".safetensors":
    raise ConversionError(
      f"{path} is not a .safetensors file, and nothing else is read: fetch the "
      "same model as .safetensors"
    )


def format_under_wrong_name(beginning: bytes) -> str:
  """What a file is that is no safetensors file, or "" if it is not known.

  Args:
    beginning: the file's first `BEGINNING_BYTES`, or all it has.
  """
  for mark, what in _BEGINNINGS:
    if beginning.lstrip().lower().startswith(mark):
      return what
  return ""
