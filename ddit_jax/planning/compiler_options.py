"""XLA options by chip, each with its reason."""

import ast
import dataclasses
from collections.abc import Mapping

import jax

_OptionValue = bool | int | float | str


@dataclasses.dataclass(frozen=True)
class _Option:
  """One option of the compiler and why it is set."""

  name: str
  value: _OptionValue
  reason: str


_OVERLAP = (
  "of the six weight gathers in a scanned block five overlap with products, "
  "none without it (compiled with libtpu 0.0.42; all options of this group "
  "together)"
)
_GATHERS_STAY = (
  "along all of a torus that closes in three directions, as 4 x 4 x 4 does, "
  "the compiler otherwise writes a gather as an all-reduce of shards padded "
  "with zeros: with six links it lasts two thirds as long as the gather with "
  "two, but nothing overlaps with it (compiled with libtpu 0.0.42)"
)
_ASYNC_GATHERS = (
  _Option(
    "xla_tpu_enable_async_collective_fusion_fuse_all_gather", True, _OVERLAP
  ),
  _Option("xla_enable_async_all_gather", True, _OVERLAP),
)

# By `device_kind`: "TPU v5" is v5p, "TPU v6 lite" v6e. A chip that is absent
# needs none; v5e ("TPU v5 lite") is, because there the compiler overlaps
# gathers by itself, and seven published options changed no line of the program.
OPTIONS: dict[str, tuple[_Option, ...]] = {
  "TPU v5": (
    _Option("xla_tpu_enable_async_collective_fusion", True, _OVERLAP),
    *_ASYNC_GATHERS,
    _Option(
      "xla_tpu_enable_async_collective_fusion_multiple_steps", True, _OVERLAP
    ),
    _Option("xla_tpu_overlap_compute_collective_tc", True, _OVERLAP),
    _Option("xla_tpu_prefer_async_allgather_to_allreduce", True, _GATHERS_STAY),
  ),
  "TPU v6 lite": _ASYNC_GATHERS,
}

_OF_CHIP, _NONE = "chip", "none"


def compiler_options(setting: str, device_kind: str) -> dict[str, _OptionValue]:
  """The options that a setting asks for on a chip.

  Args:
    setting: "chip" for the options of `OPTIONS`, "none" for no option, or
      NAME=VALUE; several are joined by commas, and a later one replaces an
      earlier one of the same name.
    device_kind: of the devices that the program is compiled for.

  Raises:
    ValueError: neither of these.
  """
  options = {}
  for item in filter(None, map(str.strip, setting.split(","))):
    name, equals, value = item.partition("=")
    if item == _OF_CHIP:
      of_chip = OPTIONS.get(device_kind, ())
      options |= {option.name: option.value for option in of_chip}
    elif equals and name and value:
      options[name] = _parsed(value)
    elif item != _NONE:
      raise ValueError(
        f"compiler_options must be {_OF_CHIP}, {_NONE} or NAME=VALUE, joined "
        f"by commas, got {item!r}"
      )
  return options


def check_compiler_knows(setting: str) -> None:
  """Compiles nearly nothing with the options, for the devices of this job.

  Raises:
    ValueError: the compiler does not know one of them or its value.
  """
  kind = jax.devices()[0].device_kind
  options = compiler_options(setting, kind)
  if not options:
    return
  try:
    jax.jit(lambda: 0, compiler_options=options).lower().compile()
  except jax.errors.JaxRuntimeError as error:
    raise ValueError(
      f"train.compiler_options is {setting}, but the compiler of {kind} says: "
      f"{str(error).splitlines()[0]}"
    ) from error


def as_setting(options: Mapping[str, _OptionValue]) -> str:
  """The setting that gives exactly these options on every chip."""
  items = [f"{name}={value}" for name, value in options.items()]
  return ",".join(items) or _NONE


def _parsed(text: str) -> _OptionValue:
  """A boolean or a number if it is one, else the text."""
  try:
    value = ast.literal_eval(
      {"true": "True", "false": "False"}.get(text.lower(), text)
    )
  except (ValueError, SyntaxError):
    return text
  return value if isinstance(value, bool | int | float) else text
