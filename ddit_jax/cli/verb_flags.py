"""Flags of one verb: absl's, kept apart from absl's global registry."""

import dataclasses
import textwrap

from absl import flags

from ddit_jax.errors import InputError, suggest


class HelpRequested(Exception):
  """The user asked for a verb's help text."""


@dataclasses.dataclass(frozen=True)
class Verb:
  """One word after `ddit`.

  Attributes:
    name: the word.
    summary: one line for the list of verbs.
    description: what it does, for a newcomer.
    define: adds its flags to an `absl.flags.FlagValues`.
    run: does the work; takes the parsed flags and config overrides.
    takes_config: True if it has --config and its overrides.
  """

  name: str
  summary: str
  description: str
  define: object
  run: object
  takes_config: bool = True

  def parse(self, argv: list[str]) -> flags.FlagValues:
    """Flags from arguments.

    Raises:
      InputError: an unknown, missing or ill-typed flag.
      HelpRequested: --help was among them.
    """
    values = flags.FlagValues()
    self.define(values)
    if any(a in ("--help", "-h", "-help", "--helpfull") for a in argv):
      raise HelpRequested(self.help_text(values))
    known = [name for name in values]
    for argument in argv:
      name = argument.lstrip("-").partition("=")[0]
      if argument.startswith("-") and name.removeprefix("no") not in known:
        if name not in known:
          raise InputError(
            f"ddit {self.name} has no flag --{name}: {suggest(name, known)}"
          )
    try:
      rest = values([f"ddit {self.name}", *argv])
    except flags.Error as error:
      raise InputError(" ".join(str(error).split())) from error
    if rest[1:]:
      raise InputError(
        f"ddit {self.name} does not know what {rest[1]!r} is for: write flags "
        "as --name=value"
      )
    return values

  def help_text(self, values: flags.FlagValues) -> str:
    """The verb's description and its flags."""
    lines = [f"ddit {self.name}: {self.summary}", "", self.description.strip()]
    lines += ["", "Flags:"]
    for name in sorted(values):
      flag = values[name]
      default = "" if flag.default is None else f" (default {flag.default})"
      lines.append(_wrapped(f"--{name}: {flag.help}{default}"))
    if self.takes_config:
      lines.append(
        _wrapped("--config.KEY=VALUE: overrides one key of the config")
      )
    return "\n".join(lines)


def _wrapped(text: str) -> str:
  return textwrap.fill(text, 80, initial_indent="  ", subsequent_indent=" " * 6)


def require(values: flags.FlagValues, *names: str) -> None:
  """Raises InputError unless every named flag was given a value."""
  for name in names:
    # An unset shell variable gives an empty one.
    if not values[name].value:
      raise InputError(f"--{name} is missing: {values[name].help}")
