"""Reading a checkpoint's `config.json`, with errors that name the field."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from ddit_jax.conversion.errors import ConversionError, named
from ddit_jax.conversion.safetensors_files import StoredTensor


@dataclasses.dataclass(frozen=True)
class JsonConfig:
  """The fields of one `config.json`.

  Attributes:
    path: where it was read, for messages.
    fields: its contents.
  """

  path: pathlib.Path
  fields: Mapping[str, Any]

  def need(self, name: str, *kinds: type) -> Any:
    """A field that must be there, of one of these types (default int).

    Raises:
      ConversionError: it is missing or of another type.
    """
    value = self.fields.get(name)
    if value is None:
      raise ConversionError(f"{self.path} lacks the field {name!r}: fetch it")
    if type(value) not in (kinds or (int,)):
      raise ConversionError(
        f"{self.path} has {name} = {value!r}, which is no "
        f"{' or '.join(kind.__name__ for kind in kinds or (int,))}"
      )
    return value

  def refuse_unless(self, name: str, *allowed: Any, reason: str) -> None:
    """Checks a field that changes what is computed; absent is allowed.

    Raises:
      ConversionError: it has a value that our networks do not compute.
    """
    value = self.fields.get(name, allowed[0])
    if value not in allowed:
      raise ConversionError(
        f"{self.path} has {name} = {value!r}, which {reason}; only "
        f"{' or '.join(map(repr, allowed))} can be converted"
      )


def read_json(path: pathlib.Path) -> JsonConfig:
  """Reads a `config.json`.

  Raises:
    ConversionError: it is missing or not a JSON table.
  """
  try:
    fields = json.loads(path.read_bytes())
  except FileNotFoundError:
    raise ConversionError(
      f"{path} is missing: fetch it beside the weights"
    ) from None
  except ValueError as error:
    raise ConversionError(
      f"{path} is not JSON ({error}): fetch it again"
    ) from error
  if not isinstance(fields, dict):
    raise ConversionError(f"{path} is not a JSON table: fetch it again")
  return JsonConfig(path, fields)


def shape_of(
  tensors: Mapping[str, StoredTensor], name: str, num_dimensions: int
) -> tuple[int, ...]:
  """The shape of a tensor that fixes a configuration.

  Raises:
    ConversionError: the tensor is missing or has another number of
      dimensions.
  """
  if name not in tensors:
    files = {str(tensor.file) for tensor in tensors.values()}
    raise ConversionError(
      f"{named(sorted(files)) or 'the checkpoint'} lacks tensor {name}: it is "
      "incomplete or another model; fetch it again"
    )
  shape = tensors[name].shape
  if len(shape) != num_dimensions:
    raise ConversionError(
      f"tensor {tensors[name].label} has shape {list(shape)}, not the "
      f"{num_dimensions} dimensions it needs: it is damaged or another model; "
      "fetch it again"
    )
  return shape


def count_numbered(tensors: Mapping[str, StoredTensor], prefix: str) -> int:
  """How many modules PREFIX0., PREFIX1., ... there are.

  Raises:
    ConversionError: their numbers have holes.
  """
  numbers = {
    name[len(prefix) :].split(".")[0]
    for name in tensors
    if name.startswith(prefix)
  }
  expected = {str(number) for number in range(len(numbers))}
  if not numbers or numbers != expected:
    raise ConversionError(
      f"modules {prefix}* are numbered {sorted(numbers)}: the checkpoint is "
      "incomplete; fetch it again"
    )
  return len(numbers)
