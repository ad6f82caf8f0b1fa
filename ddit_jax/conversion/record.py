"""Metadata of a converted folder.

config.json: configurations of its networks. source.json: what an export in the
source's own format needs. report.json: what happened to every tensor.
"""

import dataclasses
import json
import math
import pathlib
from typing import Any

from ddit_jax.conversion.adapter_file import AdapterModule
from ddit_jax.conversion.configs import CONFIG_CLASSES, NetworkConfig
from ddit_jax.conversion.dtypes import CastCounter
from ddit_jax.conversion.plan import ConversionPlan, NetworkPlan
from ddit_jax.conversion.safetensors_io import STORED_DTYPES, StoredTensor
from ddit_jax.conversion.slices import TensorSlice
from ddit_jax.errors import InputError, check_known
from ddit_jax.json_files import read_json_object, write_json

REPORT_NAME = "report.json"
_SCHEMA_VERSION = 1
_CONFIG_NAME = "config.json"
_SOURCE_NAME = "source.json"
_MAX_CONFIG_BYTES = 2**20

# Possible outcomes for a tensor.
_STATUSES = ("mapped", "newly initialised", "unused")
# Status -> [name, number of values, destination or reason]: one for every
# tensor of the source and for every newly initialised slice of ours.
_Report = dict[str, list[tuple[str, int, str]]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointRecord:
  """Contents of `config.json`.

  Attributes:
    target: see `ConversionPlan`.
    configs: network -> configuration.
  """

  target: str
  configs: dict[str, NetworkConfig]


def write_record(folder: pathlib.Path, record: CheckpointRecord) -> None:
  """Writes `config.json`."""
  configs = {n: config_to_record(c) for n, c in record.configs.items()}
  body = {"schema_version": _SCHEMA_VERSION, "target": record.target}
  write_json(folder / _CONFIG_NAME, body | configs, indent=2)


def read_record(folder: pathlib.Path) -> CheckpointRecord:
  """Reads `config.json` of a converted checkpoint.

  Raises:
    InputError: it is missing, damaged, or of another version.
  """
  path = folder / _CONFIG_NAME
  try:
    body = read_json_object(path, max_bytes=_MAX_CONFIG_BYTES)
    version = body["schema_version"]
  except (OSError, ValueError, KeyError) as error:
    raise InputError(
      f"{folder} is not a checkpoint that this tool has written (it has no "
      f"readable {_CONFIG_NAME}): convert one first"
    ) from error
  if version != _SCHEMA_VERSION:
    raise InputError(
      f"{path} has schema_version {version}, this program reads "
      f"{_SCHEMA_VERSION}: convert the source again"
    )
  try:
    configs = {
      name: _config_from_record(f"{path}: {name}", config_class, body[name])
      for name, config_class in CONFIG_CLASSES.items()
      if name in body
    }
    return CheckpointRecord(target=body["target"], configs=configs)
  except (KeyError, TypeError, AttributeError) as error:
    raise InputError(
      f"{path} is damaged ({error}): convert the source again"
    ) from error


def _config_from_record(
  where: str, config_class: type, stored: dict[str, Any]
) -> NetworkConfig:
  known = [field.name for field in dataclasses.fields(config_class)]
  check_known(stored, known, what=f"{where} has no field")
  return config_class(
    **{k: tuple(v) if isinstance(v, list) else v for k, v in stored.items()}
  )


def config_to_record(config: NetworkConfig) -> dict[str, Any]:
  """JSON-able fields of a configuration."""
  fields = dataclasses.asdict(config)
  return {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}


def write_source(folder: pathlib.Path, plan: ConversionPlan) -> None:
  """Writes `source.json`: format, files of tensors, `config.json`s."""
  networks = plan.source.networks.items()
  body = {
    "format": plan.source.format,
    "files": {
      name: {key: tensor.file.name for key, tensor in network.tensors.items()}
      for name, network in networks
    },
    "configs": {
      name: network.config.fields
      for name, network in networks
      if network.config
    },
  }
  write_json(folder / _SOURCE_NAME, body, indent=2)


def read_source(folder: pathlib.Path) -> dict[str, Any]:
  """Reads `source.json`; the folder's manifest covers it."""
  return json.loads((folder / _SOURCE_NAME).read_bytes())


def conversion_report(plan: ConversionPlan, seed: int) -> _Report:
  """The outcome for every tensor."""
  report: _Report = {status: [] for status in _STATUSES}
  for network in plan.networks:
    for parts in network.blocks.values():
      for part in parts:
        status, row = _row(network, part, seed)
        report[status].append(row)
  if plan.adapter is not None:
    report["merged"] = [
      _merged_row(network, module)
      for network in plan.networks
      for modules in network.changes.values()
      for module in modules
    ]
  unused = [pair for network in plan.networks for pair in network.unused]
  report["unused"] = [
    (_label(tensor), math.prod(tensor.shape), reason)
    for tensor, reason in (*unused, *plan.unused)
  ]
  return report


def save_report(
  folder: pathlib.Path, report: _Report, casts: CastCounter, notes: tuple
) -> None:
  """Writes `report.json`."""
  body = {
    "tensors": report,
    "casts": [
      {"from": stored, "to": kept, **count}
      for (stored, kept), count in sorted(casts.counts.items())
    ],
    "notes": list(notes),
  }
  write_json(folder / REPORT_NAME, body, indent=2)


def report_lines(
  report: _Report, casts: CastCounter, notes: tuple[str, ...] = ()
) -> list[str]:
  """The report as text: one line per tensor, then casts, notes and totals."""
  width = max(map(len, _STATUSES))
  lines = [
    f"{status:<{width}}  {name}  {detail}"
    for status, rows in report.items()
    for name, _, detail in rows
  ]
  for (stored, kept), count in sorted(casts.counts.items()):
    lines.append(
      f"cast  {stored} to {kept}: {count['tensors']} tensors, "
      f"{count['numbers']:,} values, largest {count['largest']:.6g}, "
      f"{count['flushed']:,} became zero"
    )
  lines += [f"note  {note}" for note in notes]
  for status, rows in report.items():
    total = sum(numbers for _, numbers, _ in rows)
    lines.append(f"{status}: {len(rows)} tensors, {total:,} values")
  return lines


def _merged_row(network: NetworkPlan, module: AdapterModule):
  tensors = (module.down, module.up)
  numbers = sum(math.prod(tensor.shape) for tensor in tensors)
  detail = f"times {module.scale:g}, added to {_place(network, module.part)}"
  return f"{module.down.file.name}:{module.name}", numbers, detail


def _place(network: NetworkPlan, part: TensorSlice) -> str:
  path, number = part.block
  place = f"{network.name}/{path}" + ("" if number is None else f"[{number}]")
  if part.rows != slice(None):
    place += f"[{', '.join(map(_slice_text, part.index))}]"
  return place


def _row(network: NetworkPlan, part: TensorSlice, seed: int):
  path, _ = part.block
  place = _place(network, part)
  numbers = math.prod(part.shape)
  if part.key is None:
    seeded = f", seed {seed}" if part.init.startswith("normal") else ""
    return "newly initialised", (place, numbers, part.init + seeded)
  tensor, kept = network.tensors[part.key], network.arrays[path][1]
  is_cast = STORED_DTYPES[tensor.dtype] != kept
  cast = f" ({tensor.dtype} to {kept.name})" if is_cast else ""
  return "mapped", (_label(tensor), numbers, f"-> {place}{cast}")


def _label(tensor: StoredTensor) -> str:
  """A tensor's file and name: folders share names like "encoder...."."""
  return f"{tensor.file.parent.name}/{tensor.file.name}:{tensor.name}"


def _slice_text(index: slice) -> str:
  ends = [index.start, index.stop, *([index.step] if index.step else [])]
  return ":".join("" if end is None else str(end) for end in ends)
