"""One `config.json` of a published network, its fields checked by name."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from ddit_jax.errors import InputError
from ddit_jax.json_files import read_json_object

# Published ones have two kilobytes at most.
_MAX_BYTES = 2**20
# Fields that may be zero or negative.
_ANY_SIGN = ("shift_factor",)
_LARGEST = 2**53
_KIND_NAMES = {int: "int", float: "float", str: "str"}


@dataclasses.dataclass(frozen=True)
class JsonConfig:
  """The fields of one `config.json`.

  Attributes:
    path: path of the file, for messages.
    fields: its contents.
  """

  path: pathlib.Path
  fields: Mapping[str, Any]

  @classmethod
  def read(cls, path: pathlib.Path) -> "JsonConfig":
    """Raises InputError if it is missing, damaged or not a JSON table."""
    try:
      return cls(path, read_json_object(path, max_bytes=_MAX_BYTES))
    except FileNotFoundError:
      raise InputError(
        f"{path} is missing: fetch it with the weights"
      ) from None
    except InputError:
      raise
    except ValueError as error:
      raise InputError(f"{error}: fetch it again") from error

  def need(self, name: str, kind: type = int) -> Any:
    """A required field: a number above zero, unless it may have any sign.

    An int is accepted as a float. Numbers of a list are checked one by one.
    """
    value = self.fields.get(name)
    if value is None:
      raise InputError(f"{self.path} lacks the field {name!r}: fetch it")
    if kind is tuple:
      numbers = value if type(value) is list else [None]
      return tuple(self._number(name, n, int, value) for n in numbers)
    if kind is str and type(value) is str:
      return value
    return self._number(name, value, kind, value)

  def _number(self, name: str, number: Any, kind: type, value: Any) -> Any:
    """One number of a field; `value` is all of it, for the message."""
    if type(number) not in ((float, int) if kind is float else (kind,)):
      raise InputError(
        f"{self.path} has {name} = {value!r}, which is not of type "
        f"{_KIND_NAMES[kind]}: fetch it again"
      )
    # False for NaN, too.
    is_finite = abs(number) <= _LARGEST
    if not (is_finite and (number > 0 or name in _ANY_SIGN)):
      raise InputError(
        f"{self.path} has {name} = {value!r}, but it must be finite"
        f"{'' if name in _ANY_SIGN else ' and positive'}: fetch it again"
      )
    return number

  def refuse_unless(self, name: str, *allowed: Any, reason: str) -> None:
    """Raises InputError for a field value that our networks do not support.

    Args:
      name: the field; it may be absent.
      *allowed: its possible values.
      reason: why others are not: "... = 3, which REASON".
    """
    value = self.fields.get(name, allowed[0])
    if value not in allowed:
      raise InputError(
        f"{self.path} has {name} = {value!r}, which {reason}; only "
        f"{' or '.join(map(repr, allowed))} can be converted"
      )
