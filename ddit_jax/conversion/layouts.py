"""Which of the known layouts a path has, and the tensors it holds."""

import dataclasses
import pathlib
from collections.abc import Mapping

from ddit_jax.conversion.component_files import read_component
from ddit_jax.conversion.config_fields import JsonConfig, read_json
from ddit_jax.conversion.errors import ConversionError, named
from ddit_jax.conversion.foreign import (
  PICKLE_SUFFIXES,
  refuse_foreign_class,
  refuse_foreign_tensors,
  refuse_pickle,
)
from ddit_jax.conversion.mapping import LAYOUTS, SINGLE_FILE_ENCODER_PREFIX
from ddit_jax.conversion.safetensors_files import StoredTensor, read_header

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
    _refuse_single_network(path)
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


def _refuse_single_network(path: pathlib.Path) -> None:
  """Raises if a file is one network of a folder's several."""
  folder = path.absolute().parent
  if (folder / "config.json").is_file() and (
    folder.parent / "model_index.json"
  ).is_file():
    raise ConversionError(
      f"{path} is one network of the checkpoint {folder.parent}: give that "
      "folder"
    )


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
    what = "has no transformer/ folder" if any(folder.iterdir()) else "is empty"
    raise ConversionError(
      f"{folder} {what}: SRC must be a diffusers folder of SD3, Stability's "
      "single .safetensors file, or a D-DiT folder"
    )
  config = read_json(folder / "transformer" / "config.json")
  refuse_foreign_class(config.fields.get("_class_name"), folder)
  network, notes = read_component(folder / "transformer")
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
      tensors, more = read_component(where)
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
      raise ConversionError(
        f"{path} has both {name} and {group[short].name}, which stand for one "
        "tensor: fetch it again"
      )
    group[short] = tensor
  if "network" not in groups:
    raise ConversionError(
      f"{path} has no tensors {spec.places['network']}* (its first are "
      f"{named(tensors)}): it is not {spec.title}, which holds all networks "
      "under such prefixes; fetch that, or give a whole folder"
    )
  if unknown:
    raise ConversionError(
      f"{path} has tensors of no known network: {named(unknown)}; known "
      f"prefixes are {', '.join(spec.places.values())}"
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
