"""A verb of the command line and its flags, with one-line errors."""

import argparse
import dataclasses
import os
import pathlib
import textwrap
from collections.abc import Callable, Mapping
from typing import Any

from ddit_jax.errors import InputError, suggest
from ddit_jax.files import appearing_file, local_path
from ddit_jax.json_files import to_json


@dataclasses.dataclass(frozen=True)
class Flag:
  """One --name=value.

  Attributes:
    help: help text.
    kind: type of its value; a bool flag takes no value and is then True.
    default: value if the flag is absent.
    is_repeated: True collects the values of all its occurrences in a list.
    is_path: True for a file or folder, whose form is checked at once.
  """

  help: str
  kind: type = str
  default: Any = None
  is_repeated: bool = False
  is_path: bool = False


@dataclasses.dataclass(frozen=True)
class Verb:
  """One word after `ddit`.

  Attributes:
    name: the word.
    summary: one line for the list of verbs.
    description: help text for new users.
    flags: by name.
    run: implementation; takes the parsed flags and the config's overrides, and
      returns the exit code.
    required: flags that must have a value.
    operands: flags whose values may be given without their names, in order.
    section: name of the overrides it takes, --SECTION.KEY=VALUE; "" for none.
  """

  name: str
  summary: str
  description: str
  flags: Mapping[str, Flag]
  run: Callable[[argparse.Namespace, dict[str, str]], int]
  required: tuple[str, ...] = ()
  operands: tuple[str, ...] = ()
  section: str = "config"

  def parse(self, argv: list[str]) -> argparse.Namespace:
    """Flags from arguments.

    Returns:
      The flags' values as attributes, and in `given` the names of those that
      were on the command line.

    Raises:
      InputError: an unknown, missing or ill-typed flag.
    """
    parser = _Parser(add_help=False, allow_abbrev=False)
    for name, flag in self.flags.items():
      parser.add_argument(f"--{name}", **_argparse_options(flag))
    values, rest = parser.parse_known_args(argv)
    unnamed = [name for name in self.operands if name not in values]
    for argument in rest:
      if unnamed and not argument.startswith("-"):
        setattr(values, unnamed.pop(0), argument)
        continue
      name = argument.lstrip("-").partition("=")[0]
      if argument.startswith("-"):
        raise InputError(
          f"ddit {self.name} has no flag --{name}: {suggest(name, self.flags)}"
        )
      raise InputError(
        f"ddit {self.name} does not know what {argument!r} is for: write flags "
        "as --name=value"
      )
    values.given = frozenset(vars(values))
    for name, flag in self.flags.items():
      if name not in values.given:
        setattr(values, name, [] if flag.is_repeated else flag.default)
    self.require(values, *self.required)
    self._check_paths(values)
    return values

  def _check_paths(self, values: argparse.Namespace) -> None:
    for name, flag in self.flags.items():
      if flag.is_path and name in values.given:
        given = getattr(values, name)
        paths = given if flag.is_repeated else [given]
        for path in paths:
          if not path:
            raise InputError(f"--{name} is missing: {flag.help}")
          local_path(path, what=f"--{name}")
        # A shell leaves the "~" of --out=~/x as it is.
        paths = [os.path.expanduser(path) for path in paths]
        setattr(values, name, paths if flag.is_repeated else paths[0])

  def require(self, values: argparse.Namespace, *names: str) -> None:
    """Raises InputError unless every named flag has a value."""
    for name in names:
      # An unset shell variable gives an empty value.
      if not getattr(values, name):
        raise InputError(f"--{name} is missing: {self.flags[name].help}")

  def help_text(self) -> str:
    """The verb's description and its flags."""
    lines = [f"ddit {self.name}: {self.summary}", "", self.description.strip()]
    lines += ["", "Flags:"]
    for name, flag in sorted(self.flags.items()):
      is_shown = flag.kind is not bool and flag.default is not None
      default = f" (default {flag.default})" if is_shown else ""
      lines.append(_wrapped(f"--{name}: {flag.help}{default}"))
    if self.section:
      lines.append(
        _wrapped(f"--{self.section}.KEY=VALUE: overrides one key of the config")
      )
    return "\n".join(lines)


class _Parser(argparse.ArgumentParser):
  def error(self, message: str):
    raise InputError(message.removeprefix("argument "))


def check_out(out: str | None, flag: str = "--out") -> pathlib.Path | None:
  """The file that a flag names, checked before the work; None if unset.

  Raises:
    InputError: it cannot be written, or is no file that may be replaced: a
      folder, a device such as /dev/null, a pipe, or a link.
  """
  if not out:
    return None
  path = local_path(out, what=flag)
  if not path.parent.is_dir():
    raise InputError(f"{flag}={out}: there is no folder {path.parent}")
  if path.is_dir():
    raise InputError(f"{flag}={out} is a folder: name a file in it")
  if os.path.lexists(path) and (path.is_symlink() or not path.is_file()):
    raise InputError(f"{flag}={out} is not a regular file: name a new file")
  if not os.access(path.parent, os.W_OK):
    raise InputError(f"{flag}={out} cannot be written: choose another folder")
  return path


def write_out(path: pathlib.Path | None, value: Any, *, indent: int) -> None:
  """Writes a value as JSON to what `check_out` returned.

  Of several commands that write the same file the last one wins.

  Raises:
    ValueError: a number is infinite or NaN, which JSON does not have.
  """
  if path is not None:
    contents = to_json(value, indent=indent)
    with appearing_file(path) as file:
      file.write(contents)


def _argparse_options(flag: Flag) -> dict[str, Any]:
  # Absent flags are omitted, so they can be told apart from defaults.
  options = {"default": argparse.SUPPRESS}
  if flag.kind is bool:
    return options | {"action": "store_true"}
  if flag.is_repeated:
    options["action"] = "append"
  return options | {"type": flag.kind}


def _wrapped(text: str) -> str:
  return textwrap.fill(text, 80, initial_indent="  ", subsequent_indent=" " * 6)
