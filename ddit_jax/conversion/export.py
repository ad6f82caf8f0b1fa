"""Export: our arrays as a diffusers folder of SD3, or as a D-DiT folder."""

import dataclasses
import math
import pathlib

from ddit_jax.checkpoint.manifest import verify_manifest, write_manifest
from ddit_jax.conversion.checkpoint_record import (
  CheckpointRecord,
  read_record,
  read_source_record,
  write_json,
)
from ddit_jax.conversion.component_export import (
  ComponentExport,
  open_component,
  verify_component,
  write_component,
)
from ddit_jax.conversion.convert import Outcome, Progress
from ddit_jax.conversion.dtypes import OUTPUT_DTYPES, CastCounter
from ddit_jax.conversion.errors import ConversionError
from ddit_jax.conversion.hub_files import component_json, write_plain_files
from ddit_jax.conversion.layouts import layout_name, open_source
from ddit_jax.conversion.mapping import LAYOUTS
from ddit_jax.conversion.partial_folder import (
  check_free,
  check_space,
  partial_folder,
)
from ddit_jax.conversion.report import ReportRow, report_lines

_LAYOUT_OF_TARGET = {"sd3": "sd3_folder", "ddit": "ddit_folder"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportOptions:
  """How to export.

  Attributes:
    layout: key or letter of the layout, "a" or "c".
    dtype: "float32", "bfloat16", "float16", or None to keep what is stored.
    network_params: folder of other parameters of the network, as Orbax wrote
      them (those of a training run), instead of the checkpoint's own.
    is_verified: True reads both sides again and compares them.
  """

  layout: str
  dtype: str | None = None
  network_params: pathlib.Path | None = None
  is_verified: bool = False


def plan_export(
  checkpoint: pathlib.Path, options: ExportOptions
) -> list[ComponentExport]:
  """Checks the checkpoint's hashes and opens what will be exported.

  Raises:
    ConversionError: an option is impossible, or arrays do not fit.
    CheckpointError: the checkpoint is damaged.
  """
  if options.dtype not in (None, *OUTPUT_DTYPES):
    raise ConversionError(
      f"unknown dtype {options.dtype!r}; there are {', '.join(OUTPUT_DTYPES)}"
    )
  record = read_record(checkpoint)
  layout = LAYOUTS[_checked_layout(checkpoint, record, options.layout)]
  verify_manifest(checkpoint)
  parts = []
  for name, config in record.configs.items():
    own = (p for p in (checkpoint / name).iterdir() if p.is_dir())
    folders = {path.name: path for path in own}
    if name == "network" and options.network_params is not None:
      folders["params"] = options.network_params
    parts.append(
      open_component(
        folders,
        name,
        config,
        naming=layout.namings[name],
        dtype=options.dtype,
      )
    )
  return parts


def export(
  checkpoint: pathlib.Path,
  parts: list[ComponentExport],
  destination: pathlib.Path,
  options: ExportOptions,
  progress: Progress = lambda nbytes: None,
) -> Outcome:
  """Writes a folder of safetensors that PyTorch programs load.

  Tensors are shared out over files as in the source, when the layout is the
  source's own; else in shards of five gigabytes.

  Args:
    checkpoint: what `convert` wrote.
    parts: what `plan_export` gave.
    destination: does not exist yet.
    options: as given to `plan_export`.
    progress: told of the bytes written.

  Raises:
    ConversionError: `destination` is taken, a number does not fit the dtype,
      or verification fails.
  """
  check_free(destination)
  check_space(destination, sum(part.nbytes() for part in parts))
  name = layout_name(options.layout)
  layout = LAYOUTS[name]
  source = read_source_record(checkpoint)
  counter = CastCounter()
  with partial_folder(destination) as folder:
    for part in parts:
      place = folder / layout.places[part.name]
      is_own = source.layout == name
      files = source.files.get(part.name) if is_own else None
      write_component(part, place, files, counter=counter, progress=progress)
      dtype = part.commonest_dtype().name
      fields = component_json(part.name, part.config, source, dtype)
      write_json(place / "config.json", fields)
    write_plain_files(checkpoint, folder, name, layout)
    if options.is_verified:
      written = open_source(folder, name)
      for part in parts:
        verify_component(part, written.components[part.name].tensors)
    write_manifest(folder, extra={"source": str(checkpoint)})
  return Outcome(
    lines=report_lines(_rows(parts), counter, ()),
    nbytes=sum(part.nbytes() for part in parts),
    largest_array=max(part.largest_array() for part in parts),
  )


def _checked_layout(
  checkpoint: pathlib.Path, record: CheckpointRecord, layout: str
) -> str:
  name = layout_name(layout)
  fitting = _LAYOUT_OF_TARGET[record.target]
  if name != fitting:
    raise ConversionError(
      f"{checkpoint} holds the network of {record.target}, which cannot be "
      f"written as {name}: use --export={LAYOUTS[fitting].letter}"
    )
  return name


def _rows(parts: list[ComponentExport]) -> list[ReportRow]:
  return [
    ReportRow(
      fate="mapped",
      name=f"{part.name}/{piece.array}",
      numbers=math.prod(piece.shape),
      detail=f"-> {name}",
    )
    for part in parts
    for name, piece in sorted(part.pieces.items())
  ]
