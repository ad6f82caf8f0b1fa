"""--config=FILE.py[:variant] and --config.key=value.

The file and its variants follow `ml_collections.config_flags`; the loading
is done here because its messages span pages and name no nearest key.
"""

import ast
import dataclasses
import importlib.util
import pathlib
import traceback

from ml_collections import ConfigDict

from ddit_jax.config_files import nearest, to_settings
from ddit_jax.settings import ConfigError, ExperimentSettings

PREFIX = "--config."


def split_overrides(argv: list[str]) -> tuple[list[str], dict[str, str]]:
  """Separates `--config.a.b=value` arguments from the rest.

  Raises:
    ConfigError: an override without "=" or given twice.
  """
  rest, overrides = [], {}
  for argument in argv:
    if not argument.startswith(PREFIX):
      rest.append(argument)
      continue
    key, equals, value = argument.removeprefix(PREFIX).partition("=")
    if not equals:
      raise ConfigError(f"{argument} has no value: write --config.{key}=VALUE")
    if key in overrides:
      raise ConfigError(f"--config.{key} is given twice")
    overrides[key] = value
  return rest, overrides


def load(argument: str, overrides: dict[str, str]) -> ExperimentSettings:
  """The settings of FILE.py[:variant] with overrides applied.

  Raises:
    ConfigError: no such file, variant or key; a wrong type or value; a file
      that cannot be run.
  """
  config = dataclasses.asdict(to_settings(_run_config_file(argument)))
  for key, text in overrides.items():
    _override(config, key, text)
  return to_settings(config)


def _run_config_file(argument: str) -> ConfigDict:
  name, _, variant = argument.partition(":")
  path = pathlib.Path(name)
  if path.suffix != ".py" or not path.is_file():
    siblings = [str(p) for p in path.parent.glob("*.py")]
    hint = nearest(name, siblings) if siblings else "give a path to a .py file"
    raise ConfigError(f"no config file {name}: {hint}")
  spec = importlib.util.spec_from_file_location("ddit_config", path)
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
  except Exception as error:
    raise ConfigError(_place_and_cause(path, error)) from error
  if not hasattr(module, "get_config"):
    raise ConfigError(f"{name} has no get_config function")
  try:
    config = module.get_config(*([variant] if variant else []))
  except ValueError as error:
    raise ConfigError(" ".join(str(error).split())) from error
  except Exception as error:
    raise ConfigError(_place_and_cause(path, error)) from error
  if not isinstance(config, ConfigDict):
    raise ConfigError(
      f"get_config of {name} returns a {type(config).__name__}: return a "
      "ConfigDict, such as default_config() with changes"
    )
  return config


def _place_and_cause(path: pathlib.Path, error: Exception) -> str:
  """One line that says where a config file failed and why."""
  lines = [
    frame.lineno
    for frame in traceback.extract_tb(error.__traceback__)
    if frame.filename == str(path.absolute())
  ]
  if isinstance(error, SyntaxError):
    lines.append(error.lineno)
  where = f"{path} line {lines[-1]}" if lines else str(path)
  cause = " ".join(str(error).split())
  return f"{where} fails: {type(error).__name__}: {cause}"


def _override(config: dict, key: str, text: str) -> None:
  *sections, last = key.split(".")
  for depth, name in enumerate(sections):
    if not isinstance(config.get(name), dict):
      where = ".".join(sections[: depth + 1])
      raise ConfigError(
        f"unknown config section {where}: {nearest(name, config)}"
      )
    config = config[name]
  if last not in config:
    raise ConfigError(f"unknown config key {key}: {nearest(last, config)}")
  config[last] = _parsed(key, text, config[last])


def _parsed(key: str, text: str, old):
  """The value a text stands for; `to_settings` checks its type."""
  if isinstance(old, str):
    return text
  if isinstance(old, dict):
    raise ConfigError(f"{key} is a section: set one of {sorted(old)}")
  try:
    is_boolean = text.lower() in ("true", "false")
    return ast.literal_eval(text.capitalize() if is_boolean else text)
  except (ValueError, SyntaxError):
    raise ConfigError(
      f"{key} must be {type(old).__name__}, got {text!r}"
    ) from None
