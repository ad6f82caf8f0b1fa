"""A converted checkpoint's plain facts: `config.json` and `source.json`."""

import dataclasses
import json
import pathlib
from typing import Any

from ddit_jax.conversion.components import (
  ComponentConfig,
  config_from_record,
  config_to_record,
)
from ddit_jax.conversion.errors import ConversionError
from ddit_jax.conversion.mapping import COMPONENTS

SCHEMA_VERSION = 1
CONFIG_NAME = "config.json"
SOURCE_NAME = "source.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointRecord:
  """What a converted checkpoint says about itself.

  Attributes:
    target: "ddit" or "sd3".
    configs: component -> configuration.
  """

  target: str
  configs: dict[str, ComponentConfig]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceRecord:
  """What an export in the source's own layout takes over.

  Attributes:
    layout: a key of `mapping.LAYOUTS`.
    files: component -> tensor name -> file name.
    configs: component -> fields of its `config.json`.
  """

  layout: str
  files: dict[str, dict[str, str]]
  configs: dict[str, dict[str, Any]]


def write_record(folder: pathlib.Path, record: CheckpointRecord) -> None:
  """Writes `config.json`."""
  configs = {
    name: config_to_record(config) for name, config in record.configs.items()
  }
  body = {"schema_version": SCHEMA_VERSION, "target": record.target} | configs
  write_json(folder / CONFIG_NAME, body)


def read_record(folder: pathlib.Path) -> CheckpointRecord:
  """Reads `config.json` of a converted checkpoint.

  Raises:
    ConversionError: it is missing, damaged, or of another version.
  """
  path = folder / CONFIG_NAME
  try:
    body = json.loads(path.read_bytes())
    version = body["schema_version"]
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise ConversionError(
      f"{folder} is not a checkpoint that this tool has written (it has no "
      f"readable {CONFIG_NAME}): convert one first"
    ) from error
  if version != SCHEMA_VERSION:
    raise ConversionError(
      f"{path} has schema_version {version}, this program reads "
      f"{SCHEMA_VERSION}: convert the source again"
    )
  return CheckpointRecord(
    target=body["target"],
    configs={
      name: config_from_record(name, body[name])
      for name in COMPONENTS
      if name in body
    },
  )


def write_source_record(folder: pathlib.Path, record: SourceRecord) -> None:
  """Writes `source.json`."""
  write_json(folder / SOURCE_NAME, dataclasses.asdict(record))


def read_source_record(folder: pathlib.Path) -> SourceRecord:
  """Reads `source.json`; the folder's manifest vouches for it."""
  return SourceRecord(**json.loads((folder / SOURCE_NAME).read_bytes()))


def write_json(path: pathlib.Path, body: dict[str, Any]) -> None:
  """Writes a table as readable JSON."""
  path.write_text(json.dumps(body, indent=2) + "\n")
