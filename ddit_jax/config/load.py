"""ml_collections ConfigDicts to and from strict settings.

Importing this file does not import jax.
"""

import dataclasses
import importlib.util
import math
import os
import types
import typing

from ml_collections import ConfigDict

from ddit_jax.config.settings import (
  SCHEMA_VERSION,
  ConfigError,
  ExperimentSettings,
)
from ddit_jax.errors import suggest


def to_config(settings: ExperimentSettings) -> ConfigDict:
  """Every setting, defaults included, so that each can be overridden."""
  return ConfigDict(dataclasses.asdict(settings))


def default_config() -> ConfigDict:
  """What a config file starts from."""
  return to_config(ExperimentSettings())


def to_settings(
  config: ConfigDict | dict, source: str = "this config"
) -> ExperimentSettings:
  """A complete or partial config to settings; defaults fill the rest.

  Args:
    config: nested keys and values, e.g. read from JSON.
    source: what the config is, for the message about its version.

  Raises:
    ConfigError: an unknown key, a wrong type, a value out of range, or a
      schema version this package does not read.
  """
  if isinstance(config, ConfigDict):
    config = config.to_dict()
  # A config of the future may well have keys unknown here: say the cause.
  version = config.get("schema_version", SCHEMA_VERSION)
  if version != SCHEMA_VERSION:
    raise ConfigError(
      f"{source} has schema_version {version}, this ddit_jax reads version "
      f"{SCHEMA_VERSION}: install the release that wrote it"
    )
  return _parse(ExperimentSettings, config, "")


def staged_config(stages: dict[str, ConfigDict]) -> ConfigDict:
  """The config of a job of several stages, which run in the order given.

  `order`, their names joined by commas, may be shortened; `stages` holds each
  stage's own config.
  """
  return ConfigDict({"order": ",".join(stages), "stages": dict(stages)})


def config_module(path: str | os.PathLike) -> types.ModuleType:
  """A config file as a module, so that another can vary it.

  Raises:
    Exception: whatever running the file raises.
  """
  spec = importlib.util.spec_from_file_location("ddit_config", path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def _parse(cls, section: dict, path: str):
  types = typing.get_type_hints(cls)
  values = {}
  for key, value in section.items():
    where = f"{path}{key}"
    if key not in types:
      raise ConfigError(f"unknown config key {where}: {suggest(key, types)}")
    values[key] = _value(types[key], value, where)
  return cls(**values)


def _value(kind, value, where: str):
  if dataclasses.is_dataclass(kind):
    if not isinstance(value, dict):
      raise ConfigError(f"{where} is a section, got {value!r}")
    return _parse(kind, value, f"{where}.")
  if kind is object:
    return value
  if typing.get_origin(kind) is dict:
    item = typing.get_args(kind)[1]
    if not isinstance(value, dict):
      raise ConfigError(f"{where} must be a mapping, got {value!r}")
    return {k: _value(item, v, f"{where}.{k}") for k, v in value.items()}
  if kind is float and type(value) is int:
    value = float(value)
  if type(value) is not kind:
    raise ConfigError(
      f"{where} must be {kind.__name__}, got {value!r} of type "
      f"{type(value).__name__}"
    )
  if kind is float and not math.isfinite(value):
    raise ConfigError(f"{where} must be a finite number, got {value}")
  return value
