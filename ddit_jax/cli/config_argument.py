"""--config=FILE.py[:variant] and --config.key=value.

The file and its variants follow `ml_collections.config_flags`; the loading
is done here because its messages span pages and name no nearest key.
"""

import ast
import dataclasses
import pathlib
import traceback

from ml_collections import ConfigDict

from ddit_jax.config.load import config_module, to_settings
from ddit_jax.config.settings import ConfigError, ExperimentSettings
from ddit_jax.errors import suggest

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
      that cannot be run; several stages in one config.
  """
  config = _run_config_file(argument)
  if "stages" in config:
    raise ConfigError(
      f"{argument} is a job of several stages: name one of them, "
      f"{', '.join(config.stages)}"
    )
  return _overridden(config, overrides)


def load_job(
  argument: str, overrides: dict[str, str]
) -> ExperimentSettings | dict[str, ExperimentSettings]:
  """As `load`; a job of several stages gives its stages in order.

  Overrides that begin with "stages.NAME." hold for one stage, "order" is the
  names of the stages to run, and all others hold for every stage.

  Raises:
    ConfigError: as `load`, or an unknown stage.
  """
  config = _run_config_file(argument)
  if "stages" not in config:
    return _overridden(config, overrides)
  names = overrides.get("order", config.order).split(",")
  check_stages(names, config.stages)
  own: dict[str, dict[str, str]] = {name: {} for name in names}
  for key, text in overrides.items():
    section, _, rest = key.partition(".")
    if section == "stages":
      name, _, rest = rest.partition(".")
      check_stages([name], own)
      own[name][rest] = text
    elif key != "order":
      for stage in own.values():
        stage.setdefault(key, text)
  return {
    name: _overridden(config.stages[name], own[name], f"stages.{name}.")
    for name in names
  }


def check_stages(names, known) -> None:
  """Raises ConfigError if a stage is unknown or named twice."""
  for name in names:
    if name not in known:
      raise ConfigError(f"unknown stage {name!r}: {suggest(name, known)}")
  if len(set(names)) != len(names):
    raise ConfigError(f"order names a stage twice: {','.join(names)}")


def _overridden(
  config: ConfigDict, overrides: dict[str, str], where: str = ""
) -> ExperimentSettings:
  values = dataclasses.asdict(to_settings(config))
  try:
    for key, text in overrides.items():
      _override(values, key, text)
    return to_settings(values)
  except ConfigError as error:
    raise ConfigError(f"{where}{error}") from error


def _run_config_file(argument: str) -> ConfigDict:
  name, _, variant = argument.partition(":")
  path = pathlib.Path(name)
  if path.suffix != ".py" or not path.is_file():
    siblings = [str(p) for p in path.parent.glob("*.py")]
    hint = suggest(name, siblings) if siblings else "give a path to a .py file"
    raise ConfigError(f"no config file {name}: {hint}")
  try:
    module = config_module(path)
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
        f"unknown config section {where}: {suggest(name, config)}"
      )
    config = config[name]
  if last not in config:
    raise ConfigError(f"unknown config key {key}: {suggest(last, config)}")
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
