"""Which of the known layouts a path has, and the tensors it holds."""

import dataclasses
import pathlib
import re
from collections.abc import Mapping

from ddit_jax.conversion.config_fields import JsonConfig, read_json
from ddit_jax.conversion.errors import ConversionError, named
from ddit_jax.conversion.foreign import (
  PICKLE_SUFFIXES,
  refuse_foreign_class,
  refuse_foreign_tensors,
  refuse_pickle,
)
from ddit_jax.conversion.mapping import (
  LAYOUTS,
  SINGLE_FILE_ENCODER_PREFIX,
)
from ddit_jax.conversion.safetensors_files import (
  INDEX_SUFFIX,
  StoredTensor,
  read_header,
  read_shards,
)

# In names of files that hold the same tensors once more, e.g.
# model.fp16.safetensors.
_VARIANT = re.compile(r"\.(fp16|fp32|bf16|non_ema|ema)[.-]")
_NETWORK_MARKS = {
  "ddit_folder": "null_image_embd",
  "sd3_folder": "time_text_embed.text_embedder.linear_1.weight",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceComponent:
  """One network of a checkpoint.

  Attributes:
    naming: a key of `mapping.NAMINGS`.
    where: file or folder, for messages.
    tensors: name (in the naming) to tensor.
    config: its `config.json`; None in the single file.
  """

  naming: str
  where: str
  tensors: Mapping[str, StoredTensor]
  config: JsonConfig | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
  """A checkpoint that can be converted.

  Attributes:
    path: as the user gave it.
    layout: a key of `mapping.LAYOUTS`.
    components: by our names, "network" first.
    plain_folders: our folder name -> their folder of files to be copied.
    notes: what was seen and not used.
  """

  path: pathlib.Path
  layout: str
  components: dict[str, SourceComponent]
  plain_folders: dict[str, pathlib.Path]
  notes: tuple[str, ...]

  def files(self) -> list[pathlib.Path]:
    """Every weight file, sorted."""
    return sorted(
      {t.file for c in self.components.values() for t in c.tensors.values()}
    )


def layout_name(text: str) -> str:
  """The key of `mapping.LAYOUTS` for a key or a letter.

  Raises:
    ConversionError: there is no such layout.
  """
  for name, layout in LAYOUTS.items():
    if text in (name, layout.letter):
      return name
  known = ", ".join(f"{lay.letter} = {name}" for name, lay in LAYOUTS.items())
  raise ConversionError(f"unknown layout {text!r}; there are {known}")


def open_source(path: pathlib.Path, layout: str | None = None) -> Source:
  """Recognises a checkpoint and reads the headers of all its files.

  Args:
    path: a file, or a folder.
    layout: a name for `layout_name` to insist on, or None.

  Raises:
    ConversionError: nothing is there, it is of no known layout or not of the
      named one, or a file is damaged.
  """
  wanted = layout_name(layout) if layout is not None else None
  if path.is_dir():
    path = _lone_file(path) or path
  if path.is_dir():
    source = _open_folder(path)
  elif path.is_file():
    refuse_pickle(path)
    source = _open_single_file(path)
  else:
    raise ConversionError(f"{path} does not exist: check the path")
  if wanted not in (None, source.layout):
    raise ConversionError(
      f"{path} is a {LAYOUTS[source.layout].title}, not a "
      f"{LAYOUTS[wanted].title} as --layout={layout} says"
    )
  return source


def _lone_file(folder: pathlib.Path) -> pathlib.Path | None:
  """The only weight file of a folder that has nothing of a layout."""
  entries = [p for p in folder.iterdir() if not p.name.startswith(".")]
  if any(entry.is_dir() for entry in entries):
    return None
  weights = [e for e in entries if e.suffix == ".safetensors"]
  if len(weights) == 1:
    return weights[0]
  for entry in entries:
    if not weights and entry.suffix in PICKLE_SUFFIXES:
      refuse_pickle(entry)
  return None


def _open_folder(folder: pathlib.Path) -> Source:
  if (folder / "model_index.json").is_file():
    index = read_json(folder / "model_index.json")
    refuse_foreign_class(index.fields.get("_class_name"), folder)
  if (folder / "unet").is_dir():
    refuse_foreign_class("StableDiffusion", folder)
  if (folder / "network").is_dir() and (folder / "config.json").is_file():
    raise ConversionError(
      f"{folder} is already converted: to go back, name --export"
    )
  if not (folder / "transformer").is_dir():
    raise ConversionError(
      f"{folder} has no transformer/ folder: SRC must be a diffusers folder of "
      "SD3, Stability's single .safetensors file, or a D-DiT folder"
    )
  config = read_json(folder / "transformer" / "config.json")
  refuse_foreign_class(config.fields.get("_class_name"), folder)
  network, notes = _read_component(folder / "transformer")
  refuse_foreign_tensors(network, folder / "transformer")
  found = [n for n, mark in _NETWORK_MARKS.items() if mark in network]
  if len(found) != 1:
    raise ConversionError(
      f"{folder / 'transformer'} is neither D-DiT nor SD3: of their marks "
      f"{named(_NETWORK_MARKS.values())} it has {len(found)}"
    )
  return _assemble_folder(folder, found[0], network, notes)


def _assemble_folder(
  folder: pathlib.Path, layout: str, network, notes: list[str]
) -> Source:
  spec = LAYOUTS[layout]
  components = {}
  for component, place in spec.places.items():
    where = folder / place
    if component == "network":
      tensors = network
    elif where.is_dir():
      tensors, more = _read_component(where)
      notes += more
    else:
      continue
    components[component] = SourceComponent(
      naming=spec.namings[component],
      where=str(where),
      tensors=tensors,
      config=read_json(where / "config.json"),
    )
  used = {*spec.places.values(), *spec.plain_folders.values()}
  notes += [
    f"folder {entry.name}/ is not part of this layout and was not read"
    for entry in sorted(folder.iterdir())
    if entry.is_dir() and entry.name not in used and entry.name[0] != "."
  ]
  return Source(
    path=folder,
    layout=layout,
    components=components,
    plain_folders={
      ours: folder / theirs
      for ours, theirs in spec.plain_folders.items()
      if (folder / theirs).is_dir()
    },
    notes=tuple(notes),
  )


def _read_component(
  folder: pathlib.Path,
) -> tuple[dict[str, StoredTensor], list[str]]:
  """The tensors of a folder, and notes on files that were not read."""
  files = sorted(folder.glob("*.safetensors"))
  indices = sorted(folder.glob("*.safetensors.index*.json"))
  main_files = [f for f in files if not _VARIANT.search(f.name)]
  main_indices = [f for f in indices if not _VARIANT.search(f.name)]
  if not main_files and not main_indices:
    main_files, main_indices = files, indices
  if len(main_indices) == 1:
    tensors = read_shards(main_indices[0])
  elif len(main_files) == 1 and not main_indices:
    tensors = read_header(main_files[0])
  else:
    _refuse_weights(folder, [*main_indices, *main_files])
  used = {tensor.file for tensor in tensors.values()}
  if stray := [f.name for f in main_files if f not in used]:
    raise ConversionError(
      f"{folder} also holds {named(stray)}, which its index does not list: "
      "remove what does not belong there"
    )
  notes = [
    f"{f} was not read: another variant of the same tensors"
    for f in files
    if f not in used
  ]
  return tensors, notes


def _refuse_weights(folder: pathlib.Path, found: list[pathlib.Path]) -> None:
  if found:
    raise ConversionError(
      f"{folder} holds {named(f.name for f in found)}: keep one file, or one "
      f"NAME{INDEX_SUFFIX} with its shards"
    )
  for entry in sorted(folder.iterdir()):
    if entry.suffix in PICKLE_SUFFIXES:
      refuse_pickle(entry)
  raise ConversionError(f"{folder} holds no .safetensors file: fetch it")


def _open_single_file(path: pathlib.Path) -> Source:
  tensors = read_header(path)
  refuse_foreign_tensors(tensors, path)
  spec = LAYOUTS["single_file"]
  groups: dict[str, dict[str, StoredTensor]] = {}
  unknown = []
  for name, tensor in tensors.items():
    matches = (c for c, p in spec.places.items() if name.startswith(p))
    component = next(matches, None)
    if component is None:
      unknown.append(name)
      continue
    short = name.removeprefix(spec.places[component])
    if component not in ("network", "vae"):
      short = short.removeprefix(SINGLE_FILE_ENCODER_PREFIX)
    group = groups.setdefault(component, {})
    if short in group:
      raise ConversionError(f"{path} has both {name} and {group[short].name}")
    group[short] = tensor
  if "network" not in groups:
    raise ConversionError(
      f"{path} has no tensors {spec.places['network']}* (its first are "
      f"{named(tensors)}): it is not {spec.title}; of a folder, give the folder"
    )
  if unknown:
    raise ConversionError(
      f"{path} has {len(unknown)} tensors of no known component: "
      f"{named(unknown)}"
    )
  return Source(
    path=path,
    layout="single_file",
    components={
      component: SourceComponent(
        naming=_single_naming(component, groups[component]),
        where=f"{path}:{spec.places[component]}*",
        tensors=groups[component],
        config=None,
      )
      for component in spec.places
      if component in groups
    },
    plain_folders={},
    notes=(),
  )


def _single_naming(component: str, tensors) -> str:
  if component == "clip_l" and "text_projection.weight" not in tensors:
    return "clip_without_projection"
  return LAYOUTS["single_file"].namings[component]
