"""Recognising published checkpoints: their format, networks and tensors."""

import dataclasses
import pathlib
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from ddit_jax.conversion.json_config import JsonConfig
from ddit_jax.conversion.key_map import FORMATS
from ddit_jax.conversion.safetensors_io import (
  StoredTensor,
  read_folder,
  read_header,
  refuse_pickles_in,
)
from ddit_jax.conversion.source_tree import check_source_tree
from ddit_jax.errors import InputError, first_few

# A tensor that only this format's network has.
_NETWORK_MARKS = {
  "ddit_folder": "null_image_embd",
  "sd3_folder": "time_text_embed.text_embedder.linear_1.weight",
}
_UNET = "its network is a U-Net, not an MM-DiT"
_FLUX = "its network has single-stream blocks, rotary positions and q/k norm"
_REMEDY = "use SD3-medium or D-DiT"
# Other models: name, parts of keys that it always has, why it cannot be
# converted, what to do. The first that fits is named: special before general.
OTHER_MODELS: tuple[tuple[str, tuple[str, ...], str, str], ...] = (
  (
    "a LoRA or adapter",
    ("lora_up.", "lora_A.", "lora_down."),
    "it holds differences to a model",
    "give its base, SD3-medium or D-DiT, and the file as --lora",
  ),
  (
    "a checkpoint of scaled eight-bit floats",
    ("scaled_fp8", ".scale_weight", ".weight_scale"),
    "its values are meaningless without their scales",
    "use a file in fp16 or bf16, or in fp8 without scales",
  ),
  (
    "Flux",
    ("double_blocks.0.img_attn.", "single_transformer_blocks.0."),
    _FLUX,
    _REMEDY,
  ),
  (
    "SD3.5 medium",
    ("x_block.attn2.", "transformer_blocks.0.attn2."),
    "it adds a second image self-attention to its first 13 blocks and "
    "RMS-normalises q and k",
    _REMEDY,
  ),
  (
    "SD3.5 large",
    ("x_block.attn.ln_q.", "transformer_blocks.0.attn.norm_q."),
    "it RMS-normalises q and k, which SD3-medium does not",
    _REMEDY,
  ),
  ("SDXL", ("conditioner.embedders.", "label_emb.0."), _UNET, _REMEDY),
  (
    "SD2",
    ("cond_stage_model.model.", "cond_stage_model.transformer.resb"),
    _UNET,
    _REMEDY,
  ),
  ("SD1.5", ("cond_stage_model.transformer.",), _UNET, _REMEDY),
  (
    "a U-Net model",
    ("input_blocks.0.0.", "down_blocks.0.attentions."),
    _UNET,
    _REMEDY,
  ),
)
# How diffusers' `_class_name`s begin, of pipelines and of networks.
_OUR_CLASSES = ("StableDiffusion3", "SD3", "DualDiff")
_OTHER_CLASSES = (
  ("StableDiffusionXL", "SDXL", _UNET),
  ("StableDiffusion", "SD1.5 or SD2", _UNET),
  ("Flux", "Flux", _FLUX),
)

_CONFIG = "config.json"
# Everything of a folder that any format reads or copies.
_READ_PLACES = {
  "model_index.json",
  *(place for f in FORMATS.values() for place in f.plain_folders.values()),
  *(
    place
    for name, f in FORMATS.items()
    if name != "single_file"
    for place, _ in f.networks.values()
    if place
  ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointNetwork:
  """One network of a checkpoint.

  Attributes:
    scheme: its key scheme, a key of `key_map.KEY_SCHEMES`.
    where: file or folder, for messages.
    tensors: by key, without the single file's prefix.
    config: its `config.json`; None in the single file.
  """

  scheme: str
  where: str
  tensors: Mapping[str, StoredTensor]
  config: JsonConfig | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
  """A checkpoint that can be converted.

  Attributes:
    path: path given by the user.
    format: a key of `key_map.FORMATS`.
    networks: by our names, "network" first if it is there.
    plain_folders: our folder name -> their folder of files to be copied.
    notes: what was found but not used.
  """

  path: pathlib.Path
  format: str
  networks: dict[str, CheckpointNetwork]
  plain_folders: dict[str, pathlib.Path]
  notes: tuple[str, ...]

  def files(self) -> list[pathlib.Path]:
    """Every weight file, sorted."""
    networks = self.networks.values()
    return sorted({t.file for n in networks for t in n.tensors.values()})


def format_name(text: str) -> str:
  """Resolves a format's key or letter to its key in `FORMATS`.

  Raises:
    InputError: the format is unknown.
  """
  for name, known in FORMATS.items():
    if text in (name, known.letter):
      return name
  known = ", ".join(f"{f.letter} = {name}" for name, f in FORMATS.items())
  raise InputError(f"unknown format {text!r}; there are {known}")


def open_checkpoint(
  path: pathlib.Path, wanted: str | None = None
) -> Checkpoint:
  """Recognises a checkpoint and reads the headers of all its files.

  Args:
    path: a file or a folder.
    wanted: the name or letter of the format that it must have, or None.

  Raises:
    InputError: the path is missing, of an unknown format or not of the wanted
      one, or a file is damaged.
  """
  wanted = format_name(wanted) if wanted is not None else None
  one_network = _one_network_format(path)
  if path.is_dir() and not one_network and (file := _lone_file(path)):
    check_source_tree(path, [file.name])
    path = file
  if one_network:
    source = _open_one_network(path, one_network)
  elif path.is_dir():
    source = _open_folder(path)
  elif path.is_file():
    _refuse_one_of_several(path)
    source = _open_single_file(path)
  else:
    what = "is not a regular file" if path.exists() else "does not exist"
    raise InputError(f"{path} {what}: check the path")
  if wanted not in (None, source.format):
    raise InputError(
      f"{path} is a {FORMATS[source.format].title}, not the "
      f"{FORMATS[wanted].title} requested by --format"
    )
  return source


def refuse_other_models(keys: Iterable[str], where: Any) -> None:
  """Raises InputError, naming the model, if the keys are another model's."""
  keys = list(keys)
  for title, marks, reason, remedy in OTHER_MODELS:
    for key in keys:
      if any(mark in key for mark in marks):
        raise InputError(
          f"{where} is {title} (it has tensor {key}): {reason}; {remedy}"
        )


def _refuse_other_classes(class_name: Any, where: Any) -> None:
  """The same for diffusers' `_class_name`; None is allowed."""
  name = str(class_name)
  if class_name is None or name.startswith(_OUR_CLASSES):
    return
  for start, title, reason in _OTHER_CLASSES:
    if name.startswith(start):
      raise InputError(
        f"{where} is {title} (class {name}): {reason}; {_REMEDY}"
      )
  raise InputError(f"{where} is a {name}, which is another model; {_REMEDY}")


def _lone_file(folder: pathlib.Path) -> pathlib.Path | None:
  """The only weight file of a folder without sub-folders."""
  entries = [p for p in folder.iterdir() if not p.name.startswith(".")]
  if any(entry.is_dir() for entry in entries):
    return None
  weights = [e for e in entries if e.suffix == ".safetensors"]
  if not weights:
    refuse_pickles_in(folder)
  return weights[0] if len(weights) == 1 else None


def _refuse_one_of_several(path: pathlib.Path) -> None:
  """Raises if a file is one network of a folder with several."""
  folder = path.absolute().parent
  is_in_pipeline = (folder.parent / "model_index.json").is_file()
  if is_in_pipeline and (folder / "config.json").is_file():
    raise InputError(
      f"{path} is one network of the checkpoint {folder.parent}: give that "
      "folder"
    )


def _one_network_format(folder: pathlib.Path) -> str | None:
  """The format of a folder that transformers saved, by its `model_type`."""
  if not (folder / _CONFIG).is_file():
    return None
  check_source_tree(folder, [_CONFIG])
  model_type = JsonConfig.read(folder / _CONFIG).fields.get("model_type")
  matches = (n for n, f in FORMATS.items() if model_type in f.model_types)
  return next(matches, None)


def _open_one_network(folder: pathlib.Path, name: str) -> Checkpoint:
  check_source_tree(folder, ["."])
  ((network, (_, scheme)),) = FORMATS[name].networks.items()
  tensors, notes = read_folder(folder)
  config = JsonConfig.read(folder / _CONFIG)
  if isinstance(inner := config.fields.get("vision_config"), dict):
    config = JsonConfig(config.path, inner)
  part = CheckpointNetwork(
    scheme=scheme,
    where=str(folder),
    # With a head on top, transformers' GPT-2 has this prefix.
    tensors={k.removeprefix("transformer."): t for k, t in tensors.items()},
    config=config,
  )
  return Checkpoint(
    path=folder,
    format=name,
    networks={network: part},
    plain_folders={},
    notes=tuple(notes),
  )


def _refuse_other_folders(folder: pathlib.Path) -> None:
  """Raises unless a folder has a transformer/ of a class that is known."""
  if (folder / "model_index.json").is_file():
    index = JsonConfig.read(folder / "model_index.json")
    _refuse_other_classes(index.fields.get("_class_name"), folder)
  if (folder / "unet").is_dir():
    _refuse_other_classes("StableDiffusion", folder)
  if (folder / "network").is_dir() and (folder / _CONFIG).is_file():
    raise InputError(f"{folder} is already converted: to go back, use --export")
  if not (folder / "transformer").is_dir():
    what = "has no transformer/ folder" if any(folder.iterdir()) else "is empty"
    raise InputError(
      f"{folder} {what}: SRC must be a diffusers folder of SD3, Stability's "
      "single .safetensors file, a D-DiT folder, or transformers' folder of "
      "GPT-2 or CLIP"
    )
  config = JsonConfig.read(folder / "transformer" / "config.json")
  _refuse_other_classes(config.fields.get("_class_name"), folder)


def _transformers_format(
  transformer: pathlib.Path, tensors: Collection[str]
) -> str:
  """The format of a folder by the tensors of its transformer."""
  refuse_other_models(tensors, transformer)
  found = [name for name, mark in _NETWORK_MARKS.items() if mark in tensors]
  if len(found) != 1:
    raise InputError(
      f"{transformer} is neither D-DiT nor SD3: of their marks "
      f"{first_few(_NETWORK_MARKS.values())} it has {len(found)}"
    )
  return found[0]


def _open_folder(folder: pathlib.Path) -> Checkpoint:
  check_source_tree(folder, _READ_PLACES)
  _refuse_other_folders(folder)
  tensors, notes = read_folder(folder / "transformer")
  format_name = _transformers_format(folder / "transformer", tensors)
  networks = {}
  known = FORMATS[format_name]
  for name, (place, scheme) in known.networks.items():
    where = folder / place
    if not where.is_dir():
      continue
    if name != "network":
      tensors, more = read_folder(where)
      notes += more
    networks[name] = CheckpointNetwork(
      scheme=scheme,
      where=str(where),
      tensors=tensors,
      config=JsonConfig.read(where / "config.json"),
    )
  used = {place for place, _ in known.networks.values()}
  used |= set(known.plain_folders.values())
  notes += [
    f"folder {entry.name}/ is not part of this format and was not read"
    for entry in sorted(folder.iterdir())
    if entry.is_dir() and entry.name not in used and entry.name[0] != "."
  ]
  return Checkpoint(
    path=folder,
    format=format_name,
    networks=networks,
    plain_folders={
      ours: folder / theirs
      for ours, theirs in known.plain_folders.items()
      if (folder / theirs).is_dir()
    },
    notes=tuple(notes),
  )


def _open_single_file(path: pathlib.Path) -> Checkpoint:
  tensors = read_header(path)
  refuse_other_models(tensors, path)
  known = FORMATS["single_file"]
  prefixes = {name: prefix for name, (prefix, _) in known.networks.items()}
  groups: dict[str, dict[str, StoredTensor]] = {name: {} for name in prefixes}
  unknown = []
  for key, tensor in tensors.items():
    matches = (n for n, prefix in prefixes.items() if key.startswith(prefix))
    name = next(matches, None)
    if name is None:
      unknown.append(key)
      continue
    short = key.removeprefix(prefixes[name])
    if name not in ("network", "vae"):
      short = short.removeprefix("transformer.")
    if short in groups[name]:
      raise InputError(
        f"{path} has both {key} and {groups[name][short].name}, which stand "
        "for one tensor: fetch it again"
      )
    groups[name][short] = tensor
  if not groups["network"]:
    raise InputError(
      f"{path} has no tensors {prefixes['network']}* (its first are "
      f"{first_few(tensors)}): it is not {known.title}, which holds all "
      "networks under such prefixes; fetch that, or give a whole folder"
    )
  if unknown:
    raise InputError(
      f"{path} has tensors of no known network: {first_few(unknown)}; known "
      f"prefixes are {', '.join(prefixes.values())}"
    )
  return Checkpoint(
    path=path,
    format="single_file",
    networks={
      name: CheckpointNetwork(
        scheme=_single_file_scheme(name, group),
        where=f"{path}:{prefixes[name]}*",
        tensors=group,
        config=None,
      )
      for name, group in groups.items()
      if group
    },
    plain_folders={},
    notes=(),
  )


def _single_file_scheme(name: str, tensors: Mapping[str, StoredTensor]) -> str:
  if name == "clip_l" and "text_projection.weight" not in tensors:
    return "clip_without_projection"
  return FORMATS["single_file"].networks[name][1]
