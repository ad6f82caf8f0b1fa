"""Configs: `ConfigDict`s and config files to a tree of frozen dataclasses.

A config is a nest of parts. Each part is a frozen dataclass in the module that
uses it; its fields are the config's keys, its `Literal` types the choices, and
`__post_init__` checks the ranges. This module does not know them: it builds any
such tree from its type hints.
"""

import ast
import dataclasses
import importlib.util
import math
import os
import pathlib
import traceback
import types
import typing
import warnings
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from ml_collections import ConfigDict

from ddit_jax.errors import InputError, suggest

_T = TypeVar("_T")

# Whole numbers below it are floating-point numbers, too.
_LARGE = 2**1000
# The field of a root part that counts the incompatible changes of its keys.
_VERSION = "schema_version"


def to_config_dict(part: Any) -> ConfigDict:
  """Every field of a part and of the parts inside, so each can be set."""
  return ConfigDict(dataclasses.asdict(part))


def as_json(part: Any) -> dict[str, Any]:
  """Every field of a part as JSON gives it back: tuples are lists."""
  return _plain(dataclasses.asdict(part), type(part).__name__)


def from_dict(
  cls: type[_T],
  values: ConfigDict | Mapping[str, Any],
  source: str = "this config",
) -> _T:
  """Builds a part and the parts inside; missing fields take defaults.

  Args:
    cls: the root of the tree, all of whose fields have defaults.
    values: nested keys and values, e.g. read from JSON.
    source: their origin, for the message about their version.

  Raises:
    InputError: an unknown key, a wrong type, a value that is not among the
      choices or out of range, or an unsupported schema version.
  """
  if isinstance(values, ConfigDict):
    values = values.to_dict()
  # A newer config may have unknown keys, so check the version first.
  if hasattr(cls, _VERSION):
    expected = getattr(cls, _VERSION)
    version = values.get(_VERSION, expected)
    if version != expected:
      raise InputError(
        f"{source} has schema_version {version}, this ddit_jax reads version "
        f"{expected}: install the release that wrote it"
      )
  return _part(cls(), values, "")


def stages_config(stages: Mapping[str, ConfigDict]) -> ConfigDict:
  """The config of a job of several stages, which run in the order given.

  `order`, their names joined by commas, may be shortened; `stages` holds each
  stage's own config.
  """
  return ConfigDict({"order": ",".join(stages), "stages": dict(stages)})


def config_module(path: str | os.PathLike) -> types.ModuleType:
  """A config file as a module, so that another file can vary it.

  Raises:
    Exception: any error of running the file.
  """
  spec = importlib.util.spec_from_file_location("ddit_config", path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def split_overrides(
  argv: list[str], section: str = "config"
) -> tuple[list[str], dict[str, str]]:
  """Separates `--SECTION.a.b=value` arguments from the rest.

  Raises:
    InputError: an override without "=" or given twice.
  """
  rest, overrides, prefix = [], {}, f"--{section}."
  for argument in argv:
    if not argument.startswith(prefix):
      rest.append(argument)
      continue
    key, equals, value = argument.removeprefix(prefix).partition("=")
    if not equals:
      raise InputError(f"{argument} has no value: write {prefix}{key}=VALUE")
    if key in overrides:
      raise InputError(f"{prefix}{key} is given twice")
    overrides[key] = value
  return rest, overrides


def load_config(
  cls: type[_T], argument: str, overrides: Mapping[str, str]
) -> _T:
  """The config of FILE.py[:variant] with overrides applied.

  The file and its variants follow `ml_collections.config_flags`; they are
  loaded here because its messages span pages and name no nearest key.

  Args:
    cls: the root of the tree of parts.
    argument: FILE.py[:variant]; the file's `get_config` gives a ConfigDict.
    overrides: dotted key -> value as text.

  Raises:
    InputError: no such file, variant or key; a wrong type or value; a file
      that cannot be run; several stages in one config.
  """
  config = _run_config_file(argument)
  if "stages" in config:
    raise InputError(
      f"{argument} is a job of several stages: name one of them, "
      f"{', '.join(config.stages)}"
    )
  return _overridden(cls, config, overrides)


def load_job(
  cls: type[_T], argument: str, overrides: Mapping[str, str]
) -> _T | dict[str, _T]:
  """Like `load_config`, but returns all stages of a job, in order.

  Overrides that begin with "stages.NAME." apply to one stage, "order" is the
  names of the stages to run, and all others apply to every stage.

  Raises:
    InputError: as `load_config`, or an unknown stage.
  """
  config = _run_config_file(argument)
  if "stages" not in config:
    return _overridden(cls, config, overrides)
  names = overrides.get("order", config.order).split(",")
  _check_stages(names, config.stages)
  of_stage: dict[str, dict[str, str]] = {name: {} for name in names}
  for key, text in overrides.items():
    section, _, rest = key.partition(".")
    if section == "stages":
      name, _, rest = rest.partition(".")
      _check_stages([name], of_stage)
      of_stage[name][rest] = text
    elif key != "order":
      for stage in of_stage.values():
        stage.setdefault(key, text)
  return {
    name: _overridden(
      cls, config.stages[name], of_stage[name], f"stages.{name}."
    )
    for name in names
  }


def _check_stages(names: Iterable[str], known: Iterable[str]) -> None:
  names = list(names)
  for name in names:
    if name not in known:
      raise InputError(f"unknown stage {name!r}: {suggest(name, known)}")
  if len(set(names)) != len(names):
    raise InputError(f"order names a stage twice: {','.join(names)}")


def _overridden(
  cls: type[_T],
  config: ConfigDict,
  overrides: Mapping[str, str],
  where: str = "",
) -> _T:
  values = dataclasses.asdict(from_dict(cls, config))
  try:
    for key, text in overrides.items():
      _override(cls, values, key, text)
    return from_dict(cls, values)
  except InputError as error:
    raise InputError(f"{where}{error}") from error


def overridden(part: _T, changes: Mapping[str, Any], name: str) -> _T:
  """A part with some fields of it, and of the parts inside, replaced.

  Args:
    part: any part of a config.
    changes: dotted name of a field -> its value, or its value as text.
    name: of the part in the config, for messages.

  Raises:
    InputError: an unknown field, or a wrong type or value.
  """
  values = dataclasses.asdict(part)
  try:
    for key, value in changes.items():
      _override(type(part), values, str(key), value)
  except InputError as error:
    raise InputError(f"{name}: {error}") from error
  return _part(part, values, f"{name}.")


def _override(cls: type, values: dict, key: str, value: Any) -> None:
  *sections, last = key.split(".")
  kind: Any = cls
  for depth, name in enumerate(sections):
    if _takes_any_key(kind) and name:
      values.setdefault(name, {})
    if not isinstance(values.get(name), dict):
      where = ".".join(sections[: depth + 1])
      raise InputError(
        f"unknown config section {where}: {suggest(name, values)}"
      )
    values, kind = values[name], _kind_of(kind, name)
  is_new = last not in values
  if is_new and not (_takes_any_key(kind) and last):
    raise InputError(f"unknown config key {key}: {suggest(last, values)}")
  if isinstance(value, str):
    value = _parsed(key, value, values.get(last), _kind_of(kind, last))
  values[last] = value


def _takes_any_key(kind: Any) -> bool:
  """Whether values of this type are mappings whose keys the user chooses."""
  return kind is object or typing.get_origin(kind) is dict


def _kind_of(kind: Any, key: str) -> Any:
  """The type of a part's or a mapping's value."""
  if dataclasses.is_dataclass(kind):
    return typing.get_type_hints(kind)[key]
  return typing.get_args(kind)[1] if typing.get_args(kind) else object


def _parsed(key: str, text: str, old: Any, kind: Any) -> Any:
  """Parses a value from text; `from_dict` checks its type.

  Args:
    key: for messages.
    text: of the command line.
    old: the value before; None if there was none.
    kind: the type. Where it is any, words that are no Python value are a text.
  """
  if kind is str or isinstance(old, str):
    return text
  is_mapping = _takes_any_key(kind) and text.startswith("{")
  if isinstance(old, dict) and not is_mapping:
    raise InputError(f"{key} is a section: set one of {sorted(old)}")
  try:
    return _literal(text)
  except (ValueError, SyntaxError):
    if kind is object:
      return text
    name = getattr(kind, "__name__", str(kind))
    raise InputError(f"{key} must be {name}, got {text!r}") from None


def _literal(text: str) -> Any:
  """A Python value from text; ValueError or SyntaxError if it is none."""
  is_boolean = text.lower() in ("true", "false")
  try:
    with warnings.catch_warnings():
      # Python warns of unusual escapes and of numbers before words.
      warnings.simplefilter("ignore")
      value = ast.literal_eval(text.capitalize() if is_boolean else text)
  # What the parser cannot hold, and what no set or mapping can.
  except (MemoryError, RecursionError, TypeError) as error:
    raise ValueError(str(error)) from error
  # Python refuses to print whole numbers of thousands of digits.
  repr(value)
  return value


def _run_config_file(argument: str) -> ConfigDict:
  name, _, variant = argument.partition(":")
  path = pathlib.Path(name)
  if path.suffix != ".py" or not path.is_file():
    siblings = [str(p) for p in path.parent.glob("*.py")]
    hint = suggest(name, siblings) if siblings else "give a path to a .py file"
    raise InputError(f"no config file {name}: {hint}")
  try:
    module = config_module(path)
  except Exception as error:
    raise InputError(_place_and_cause(path, error)) from error
  if not hasattr(module, "get_config"):
    raise InputError(f"{name} has no get_config function")
  try:
    config = module.get_config(*([variant] if variant else []))
  except ValueError as error:
    raise InputError(" ".join(str(error).split())) from error
  except Exception as error:
    raise InputError(_place_and_cause(path, error)) from error
  if not isinstance(config, ConfigDict):
    raise InputError(
      f"get_config of {name} returns a {type(config).__name__}: return a "
      "ConfigDict, such as default_config() with changes"
    )
  return config


def _place_and_cause(path: pathlib.Path, error: Exception) -> str:
  """One line with the place and cause of a config file's error."""
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


def _part(default: _T, values: Mapping[str, Any], path: str) -> _T:
  """The default part with some values replaced."""
  kinds = typing.get_type_hints(type(default))
  given = {}
  for key, value in values.items():
    if key not in kinds:
      hint = suggest(key, kinds)
      raise InputError(f"unknown config key {path}{key}: {hint}")
    where, old = f"{path}{key}", getattr(default, key)
    if dataclasses.is_dataclass(old):
      if not isinstance(value, Mapping):
        raise InputError(f"{where} is a section, got {value!r}")
      given[key] = _part(old, value, f"{where}.")
    else:
      given[key] = _value(kinds[key], value, where)
  try:
    return dataclasses.replace(default, **given)
  except ValueError as error:
    # A part's message starts with the name of its field.
    raise InputError(f"{path}{error}") from error


def _value(kind: Any, value: Any, where: str) -> Any:
  if kind is object:
    return _plain(value, where)
  if typing.get_origin(kind) is dict:
    item = typing.get_args(kind)[1]
    if not isinstance(value, Mapping):
      raise InputError(f"{where} must be a mapping, got {value!r}")
    return {k: _value(item, v, f"{where}.{k}") for k, v in value.items()}
  if typing.get_origin(kind) is tuple:
    item = typing.get_args(kind)[0]
    if not isinstance(value, list | tuple):
      raise InputError(
        f"{where} must be values joined by commas in parentheses, got {value!r}"
      )
    return tuple(_value(item, v, f"{where}[{i}]") for i, v in enumerate(value))
  if typing.get_origin(kind) is typing.Literal:
    # The part itself checks its choices.
    return value
  if kind is float and type(value) is int and abs(value) < _LARGE:
    value = float(value)
  if type(value) is not kind:
    raise InputError(
      f"{where} must be {kind.__name__}, got {value!r} of type "
      f"{type(value).__name__}"
    )
  if kind is float and not math.isfinite(value):
    raise InputError(f"{where} must be a finite number, got {value}")
  return value


def _plain(value: Any, where: str) -> Any:
  """A value as a checkpoint keeps it: what JSON has, tuples as lists."""
  if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
    return {key: _plain(v, f"{where}.{key}") for key, v in value.items()}
  if isinstance(value, list | tuple):
    return [_plain(v, f"{where}[{i}]") for i, v in enumerate(value)]
  if isinstance(value, float) and not math.isfinite(value):
    raise InputError(f"{where} must be a finite number, got {value}")
  if value is None or isinstance(value, str | bool | int | float):
    return value
  raise InputError(
    f"{where} must be a text, a number, True, False, None, or a list or "
    f"mapping of such, got {value!r} of type {type(value).__name__}"
  )
