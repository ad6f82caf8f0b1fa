"""Plans a conversion from headers, before any value is read.

Every tensor of a checkpoint becomes a slice of one of our arrays, or is unused;
every value of our arrays comes from one slice or is newly initialised.
"""

import collections
import dataclasses
import fnmatch
import math
import pathlib
from collections.abc import Mapping

import numpy as np

from ddit_jax.conversion.adapter_file import AdapterFile, AdapterModule
from ddit_jax.conversion.configs import (
  NetworkConfig,
  array_shapes,
  ddit_config,
  read_config,
)
from ddit_jax.conversion.dtypes import INPUT_DTYPES, check_dtype, output_dtype
from ddit_jax.conversion.formats import Checkpoint, CheckpointNetwork
from ddit_jax.conversion.key_map import FORMATS, KEY_SCHEMES, Unused
from ddit_jax.conversion.safetensors_io import StoredTensor
from ddit_jax.conversion.slices import (
  Block,
  TensorSlice,
  blocks_of,
  tensor_slices,
)
from ddit_jax.conversion.tokenizers import (
  T5_TOKENIZER,
  check_head,
  new_head_size,
  tokenizer_folders,
  tokenizer_notes,
)
from ddit_jax.errors import InputError, first_few
from ddit_jax.models.config import MMDiTConfig

TARGETS = ("ddit", "sd3")
_DEFAULT_TARGET = "ddit"


@dataclasses.dataclass(frozen=True, kw_only=True)
class NetworkPlan:
  """The plan for one network of a checkpoint.

  Attributes:
    name: "network", "text_encoder", ...
    config: its configuration.
    tensors: the checkpoint's tensors by key.
    arrays: path of our array -> (shape, dtype).
    blocks: what fills every block of our arrays.
    unused: (tensor, reason).
    duplicates: key of an unused tensor -> key of the one it must equal.
    changes: adapted matrices, by the block that they are added to.
  """

  name: str
  config: NetworkConfig
  tensors: Mapping[str, StoredTensor]
  arrays: Mapping[str, tuple[tuple[int, ...], np.dtype]]
  blocks: Mapping[Block, list[TensorSlice]]
  unused: tuple[tuple[StoredTensor, str], ...]
  duplicates: Mapping[str, str]
  changes: Mapping[Block, list[AdapterModule]] = dataclasses.field(
    default_factory=dict
  )

  def array_bytes(self) -> list[int]:
    """Bytes of each of our arrays."""
    return [
      math.prod(shape) * dtype.itemsize for shape, dtype in self.arrays.values()
    ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConversionPlan:
  """The plan of a conversion.

  Attributes:
    source: the checkpoint to convert.
    target: "ddit", "sd3", or the format of a source of one network.
    networks: those that are converted.
    unused: (tensor, reason) of networks that are not converted.
    tokenizers: our folder -> the one that is copied.
    notes: choices made and things not used, one line each.
    adapter: the file that is merged into the network, or None.
  """

  source: Checkpoint
  target: str
  networks: tuple[NetworkPlan, ...]
  unused: tuple[tuple[StoredTensor, str], ...]
  tokenizers: Mapping[str, pathlib.Path]
  notes: tuple[str, ...]
  adapter: AdapterFile | None = None

  def copied(self) -> dict[str, pathlib.Path]:
    """Our folder -> the one that it is copied from."""
    return {**self.source.plain_folders, **self.tokenizers}

  def nbytes(self) -> int:
    """Bytes of all our arrays."""
    return sum(sum(network.array_bytes()) for network in self.networks)


def plan_conversion(
  source: Checkpoint,
  *,
  target: str | None = None,
  dtype: str | None = None,
  tokenizer: pathlib.Path | None = None,
  vocab_size: int | None = None,
) -> ConversionPlan:
  """Plans a conversion; reads only headers and the position table.

  Args:
    source: an opened checkpoint.
    target: which network to make: "ddit" or "sd3"; None is "ddit", or what a
      source of one network holds.
    dtype: a key of `dtypes.OUTPUT_DTYPES`, or None to keep what is stored.
    tokenizer: for sources without one, see `tokenizer_folders`.
    vocab_size: rows of a new text head; None asks the tokenizer.

  Raises:
    InputError: an option is impossible, or tensors are missing, unsupported,
      or of a wrong shape or dtype.
  """
  check_dtype(dtype)
  if FORMATS[source.format].model_types:
    options = {"target": target, "tokenizer": tokenizer}
    return _plan_one_network(source, dtype, vocab_size=vocab_size, **options)
  target = _checked_target(target or _DEFAULT_TARGET, source)
  tokenizers = tokenizer_folders(source, tokenizer)
  absent = FORMATS[source.format].networks.keys() - source.networks.keys()
  notes = [*source.notes]
  notes += [f"{name} is not in the source" for name in sorted(absent)]
  if target == "sd3":
    notes += tokenizer_notes(tokenizers)
  networks, unused = [], []
  for name, part in source.networks.items():
    try:
      if name.startswith("clip") and target == "ddit":
        raise InputError("D-DiT reads T5 alone")
      config = read_config(name, part.scheme, part.tensors, part.config)
      if name == "network":
        head = (tokenizers.get(T5_TOKENIZER), vocab_size)
        part, config, more = _network_for(target, source, config, *head)
        notes += more
      networks.append(_plan_network(name, part, config, dtype))
    except InputError as error:
      # SD3 samples without a CLIP encoder of an unknown kind; D-DiT never needs
      # one.
      if not name.startswith("clip"):
        raise
      unused += [(tensor, str(error)) for tensor in part.tensors.values()]
      notes.append(f"{name} is not converted: {error}")
  _check_widths({network.name: network.config for network in networks})
  return ConversionPlan(
    source=source,
    target=target,
    networks=tuple(networks),
    unused=tuple(unused),
    tokenizers=tokenizers,
    notes=tuple(notes),
  )


def with_adapter(plan: ConversionPlan, path: pathlib.Path) -> ConversionPlan:
  """The plan of the same conversion with a LoRA merged into the network.

  Args:
    plan: of the conversion without.
    path: the adapters' file, see `AdapterFile.open`.

  Raises:
    InputError: see `AdapterFile.open`.
  """
  network, *others = plan.networks
  if network.name != "network":
    raise InputError(
      f"--lora={path} is for an MM-DiT, and {plan.source.path} is a "
      f"{FORMATS[plan.source.format].title}: leave it out"
    )
  adapter = AdapterFile.open(path, network.config)
  changes: dict[Block, list[AdapterModule]] = {}
  for module in adapter.modules:
    changes.setdefault(module.part.block, []).append(module)
  return dataclasses.replace(
    plan,
    networks=(dataclasses.replace(network, changes=changes), *others),
    unused=plan.unused + adapter.unused,
    notes=(*plan.notes, *adapter.notes()),
    adapter=adapter,
  )


def _plan_one_network(
  source: Checkpoint, dtype: str | None, **options
) -> ConversionPlan:
  """The plan of a source of one network; `options` are for others."""
  if given := [name for name, value in options.items() if value is not None]:
    raise InputError(
      f"--{given[0]} is for SD3 and D-DiT, and {source.path} is a "
      f"{FORMATS[source.format].title}: leave it out"
    )
  ((name, part),) = source.networks.items()
  config = read_config(name, part.scheme, part.tensors, part.config)
  return ConversionPlan(
    source=source,
    target=source.format,
    networks=(_plan_network(name, part, config, dtype),),
    unused=(),
    tokenizers={},
    notes=source.notes,
  )


def _checked_target(target: str, source: Checkpoint) -> str:
  if target not in TARGETS:
    raise InputError(f"unknown target {target!r}; there are {TARGETS}")
  if target == "sd3" and source.format == "ddit_folder":
    raise InputError(
      f"{source.path} is D-DiT and has no pooled-text branch: it cannot become "
      "SD3; leave --target out"
    )
  return target


def _network_for(
  target: str,
  source: Checkpoint,
  config: MMDiTConfig,
  tokenizer: pathlib.Path | None,
  vocab_size: int | None,
) -> tuple[CheckpointNetwork, MMDiTConfig, list[str]]:
  """The network with the key scheme and configuration of the target; notes."""
  part, notes = source.networks["network"], []
  is_ddit = source.format == "ddit_folder"
  if vocab_size is not None and vocab_size < 1:
    raise InputError(
      f"--vocab_size={vocab_size} is not a valid number of rows: give 1 or more"
    )
  if vocab_size is not None and (is_ddit or target == "sd3"):
    raise InputError(
      f"--vocab_size={vocab_size} is for a new text head, which only D-DiT "
      "made from SD3 has: leave it out"
    )
  if source.format == "single_file":
    notes.append(
      f"the single file does not say it: {config.num_heads} heads of "
      f"{config.head_dim}, as in all of Stability's SD3 files; base_grid "
      f"{config.base_grid} was read off the position table"
    )
  if is_ddit:
    check_head(config.vocab_size, tokenizer)
  elif target == "ddit":
    size, more = new_head_size(source, config, tokenizer, vocab_size)
    config = ddit_config(config, size)
    part = dataclasses.replace(part, scheme=f"{part.scheme}_to_ddit")
    notes += more
    notes.append(
      "the last block's text side is zero-gated: the image velocity equals "
      "SD3's without its pooled vector until training changes it"
    )
  return part, config, notes


def _plan_network(
  name: str, part: CheckpointNetwork, config: NetworkConfig, dtype: str | None
) -> NetworkPlan:
  shapes = array_shapes(config)
  slices = tensor_slices(part.scheme, config)
  mapped = [found for found in slices if found.key is not None]
  unused = _check_keys(part, {found.key for found in mapped})
  for found in mapped:
    _check_tensor(part.tensors[found.key], found)
  dtypes = _array_dtypes(mapped, part.tensors, dtype)
  commonest = collections.Counter(dtypes.values()).most_common(1)[0][0]
  return NetworkPlan(
    name=name,
    config=config,
    tensors=part.tensors,
    arrays={
      p: (shape, dtypes.get(p, commonest)) for p, shape in shapes.items()
    },
    blocks=blocks_of(slices, shapes),
    unused=tuple((part.tensors[k], u.reason) for k, u in unused.items()),
    duplicates={k: u.duplicate_of for k, u in unused.items() if u.duplicate_of},
  )


def _check_keys(
  part: CheckpointNetwork, expected: set[str]
) -> dict[str, Unused]:
  """The tensors that are known and not used.

  Raises:
    InputError: tensors are missing, or neither mapped nor known.
  """
  if missing := sorted(expected - part.tensors.keys()):
    raise InputError(
      f"{part.where} lacks {len(missing)} of {len(expected)} tensors: "
      f"{first_few(missing)}; it, or a config.json beside it, is incomplete or "
      "of another model: fetch all of it from one place"
    )
  unused, unsupported = {}, []
  for key in sorted(part.tensors.keys() - expected):
    for known in KEY_SCHEMES[part.scheme].unused:
      if fnmatch.fnmatchcase(key, known.pattern):
        unused[key] = known
        break
    else:
      unsupported.append(key)
  if unsupported:
    raise InputError(
      f"{part.where} has unsupported tensors, which none of our arrays takes: "
      f"{first_few(unsupported)}; it, or a config.json beside it, is of "
      "another model: fetch all of it from one place"
    )
  return unused


def _check_tensor(tensor: StoredTensor, found: TensorSlice) -> None:
  if tensor.shape != found.their_shape:
    raise InputError(
      f"tensor {tensor.label} has shape {list(tensor.shape)}, this model needs "
      f"{list(found.their_shape)}: the file, or a config.json beside it, is of "
      "another model; fetch all of it from one place"
    )
  if tensor.dtype not in INPUT_DTYPES:
    raise InputError(
      f"tensor {tensor.label} has dtype {tensor.dtype}; weights may be "
      f"{', '.join(INPUT_DTYPES)}: re-save it"
    )


def _check_widths(configs: Mapping[str, NetworkConfig]) -> None:
  """Raises unless the networks fit together."""
  network = configs["network"]
  for name, field, theirs in (
    ("text_encoder", "width", "context_dim"),
    ("vae", "latent_channels", "latent_channels"),
  ):
    if name in configs:
      given, taken = getattr(configs[name], field), getattr(network, theirs)
      if given != taken:
        raise InputError(
          f"the {name} has {field} {given} but the network {theirs} {taken}: "
          f"these belong to different checkpoints; use the network's own {name}"
        )


def _array_dtypes(
  mapped: list[TensorSlice], tensors: Mapping[str, StoredTensor], dtype
) -> dict[str, np.dtype]:
  """The dtype of every array that has a source."""
  found: dict[str, dict[np.dtype, str]] = {}
  for part in mapped:
    kept = output_dtype(tensors[part.key].dtype, dtype)
    found.setdefault(part.block[0], {})[kept] = part.key
  for path, dtypes in found.items():
    if len(dtypes) > 1:
      seen = first_few(f"{name} {kept}" for kept, name in dtypes.items())
      raise InputError(
        f"array {path} would mix dtypes ({seen}): name one with --dtype="
      )
  return {path: next(iter(dtypes)) for path, dtypes in found.items()}
