"""What a whole conversion will do, decided from headers alone."""

import collections
import dataclasses
import math
import pathlib
from collections.abc import Mapping

import numpy as np

from ddit_jax.conversion import network_config
from ddit_jax.conversion.components import (
  ComponentConfig,
  array_shapes,
  counters,
  pattern_sizes,
  read_config,
)
from ddit_jax.conversion.dtypes import INPUT_DTYPES, OUTPUT_DTYPES, output_dtype
from ddit_jax.conversion.errors import ConversionError, named
from ddit_jax.conversion.layouts import Source, SourceComponent
from ddit_jax.conversion.mapping import INTO_DDIT, LAYOUTS
from ddit_jax.conversion.plan import (
  Piece,
  Slab,
  check_names,
  expected_pieces,
  fresh_pieces,
  slabs,
)
from ddit_jax.conversion.safetensors_files import StoredTensor
from ddit_jax.conversion.text_head_size import (
  check_head,
  check_wanted_size,
  fresh_head_size,
)
from ddit_jax.conversion.tokenizer_choice import (
  T5_TOKENIZER,
  tokenizer_folders,
  tokenizer_notes,
)

TARGETS = ("ddit", "sd3")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComponentPlan:
  """What happens to one network of a checkpoint.

  Attributes:
    name: "network", "text_encoder", ...
    naming: naming of the source's tensors.
    where: file or folder of the source, for messages.
    config: our configuration.
    tensors: the source's tensors by name.
    arrays: path of our array -> (shape, dtype).
    slabs: where every number of our arrays comes from.
    left_over: (tensor, reason) that nothing takes.
    twins: left-over tensor -> the one it must equal.
  """

  name: str
  naming: str
  where: str
  config: ComponentConfig
  tensors: Mapping[str, StoredTensor]
  arrays: Mapping[str, tuple[tuple[int, ...], np.dtype]]
  slabs: tuple[Slab, ...]
  left_over: tuple[tuple[StoredTensor, str], ...]
  twins: Mapping[str, str]

  def nbytes(self) -> int:
    """Bytes of all our arrays."""
    return sum(
      math.prod(shape) * dtype.itemsize for shape, dtype in self.arrays.values()
    )

  def largest_array(self) -> int:
    """Bytes of the largest of our arrays."""
    return max(
      math.prod(shape) * dtype.itemsize for shape, dtype in self.arrays.values()
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConversionPlan:
  """What a conversion will do.

  Attributes:
    source: what is converted.
    target: "ddit" or "sd3".
    components: the networks that are converted.
    left_over: (tensor, reason) of networks that are not.
    tokenizers: our folder -> the one that is copied.
    notes: choices made and things not used, one line each.
  """

  source: Source
  target: str
  components: tuple[ComponentPlan, ...]
  left_over: tuple[tuple[StoredTensor, str], ...]
  tokenizers: Mapping[str, pathlib.Path]
  notes: tuple[str, ...]

  @property
  def tokenizer(self) -> pathlib.Path | None:
    """Folder of T5's tokenizer, or None."""
    return self.tokenizers.get(T5_TOKENIZER)


def plan_conversion(
  source: Source,
  *,
  target: str = "ddit",
  dtype: str | None = None,
  tokenizer: pathlib.Path | None = None,
  vocab_size: int | None = None,
) -> ConversionPlan:
  """Decides everything; only headers (and the position table) are read.

  Args:
    source: an opened checkpoint.
    target: which network to make: "ddit" or "sd3".
    dtype: a key of `dtypes.OUTPUT_DTYPES`, or None to keep what is stored.
    tokenizer: for sources without them, see `tokenizer_folders`.
    vocab_size: rows of a fresh text head; None asks the tokenizer.

  Raises:
    ConversionError: an option is impossible, or tensors are missing,
      unknown, or of a wrong shape or dtype.
  """
  if target not in TARGETS:
    raise ConversionError(f"unknown target {target!r}; there are {TARGETS}")
  if dtype not in (None, *OUTPUT_DTYPES):
    raise ConversionError(
      f"unknown dtype {dtype!r}; there are {', '.join(OUTPUT_DTYPES)}"
    )
  if target == "sd3" and source.layout == "ddit_folder":
    raise ConversionError(
      f"{source.path} is D-DiT and has no pooled-text branch: it cannot become "
      "SD3; leave --target out"
    )
  tokenizers = tokenizer_folders(source, tokenizer)
  components, left_over, notes = [], [], list(source.notes)
  absent = LAYOUTS[source.layout].places.keys() - source.components.keys()
  notes += [f"{name} is not in the source" for name in sorted(absent)]
  if target == "sd3":
    notes += tokenizer_notes(tokenizers)
  for name, part in source.components.items():
    if name.startswith("clip"):
      plan, reason = _try_clip(name, part, target, dtype)
      if plan is None:
        left_over += [(tensor, reason) for tensor in part.tensors.values()]
        notes.append(f"{name} is not converted: {reason}")
        continue
    elif name == "network":
      plan = _plan_network(
        source,
        target,
        dtype,
        (tokenizers.get(T5_TOKENIZER), vocab_size),
        notes,
      )
    else:
      config = read_config(name, part.naming, part.tensors, part.config)
      plan = plan_component(name, part, config, dtype=dtype)
    components.append(plan)
  _check_widths({plan.name: plan.config for plan in components})
  return ConversionPlan(
    source=source,
    target=target,
    components=tuple(components),
    left_over=tuple(left_over),
    tokenizers=tokenizers,
    notes=tuple(notes),
  )


def plan_component(
  name: str,
  part: SourceComponent,
  config: ComponentConfig,
  *,
  dtype: str | None,
) -> ComponentPlan:
  """Plans one network.

  Args:
    name: "network", "text_encoder", ...
    part: its tensors; `part.naming` says how they become ours.
    config: our configuration.
    dtype: see `plan_conversion`.

  Raises:
    ConversionError: tensors are missing, unknown, or of a wrong shape or
      dtype.
  """
  shapes = array_shapes(config)
  counts = counters(config)
  pieces = expected_pieces(
    part.naming, shapes, counts=counts, sizes=pattern_sizes(config)
  )
  known = check_names(part.naming, part.tensors, pieces, part.where)
  for piece in pieces:
    _check_tensor(part.tensors[piece.name], piece)
  fresh = fresh_pieces(part.naming, shapes, counts)
  dtypes = _array_dtypes(pieces, part.tensors, dtype)
  commonest = collections.Counter(dtypes.values()).most_common(1)[0][0]
  return ComponentPlan(
    name=name,
    naming=part.naming,
    where=part.where,
    config=config,
    tensors=part.tensors,
    arrays={
      path: (shape, dtypes.get(path, commonest))
      for path, shape in shapes.items()
    },
    slabs=tuple(slabs(pieces, fresh, shapes)),
    left_over=tuple((part.tensors[n], k.reason) for n, k in known.items()),
    twins={n: k.twin for n, k in known.items() if k.twin},
  )


def _try_clip(
  name: str, part: SourceComponent, target: str, dtype: str | None
) -> tuple[ComponentPlan | None, str]:
  """The plan of a CLIP encoder, or why there is none."""
  if target == "ddit":
    return None, "D-DiT reads T5 alone"
  try:
    config = read_config(name, part.naming, part.tensors, part.config)
    return plan_component(name, part, config, dtype=dtype), ""
  except ConversionError as error:
    return None, f"incomplete or of an unknown kind ({error})"


def _plan_network(source, target, dtype, vocabulary, notes) -> ComponentPlan:
  part = source.components["network"]
  tokenizer, vocab_size = vocabulary
  is_ddit = source.layout == "ddit_folder"
  check_wanted_size(vocab_size, is_head_fresh=target == "ddit" and not is_ddit)
  config = read_config("network", part.naming, part.tensors, part.config)
  if source.layout == "single_file":
    notes.append(
      f"the single file does not say it: {config.num_heads} heads of "
      f"{config.head_dim}, as in all of Stability's SD3 files; base_grid "
      f"{config.base_grid} was read off the position table"
    )
  if is_ddit:
    check_head(config.vocab_size, tokenizer)
  elif target == "ddit":
    if vocab_size is None:
      vocab_size, note = fresh_head_size(source, config, tokenizer)
      notes += [note] if note else []
    check_head(vocab_size, tokenizer)
    config = network_config.ddit_config(config, vocab_size)
    part = dataclasses.replace(part, naming=INTO_DDIT[part.naming])
    notes.append(
      "the last block's text side is zero-gated: the image velocity equals "
      "SD3's without its pooled vector until training changes it"
    )
  return plan_component("network", part, config, dtype=dtype)


def _check_widths(configs: Mapping[str, ComponentConfig]) -> None:
  """Raises unless the networks fit together."""
  network = configs["network"]
  for name, field, theirs in (
    ("text_encoder", "width", "context_dim"),
    ("vae", "latent_channels", "latent_channels"),
  ):
    if name in configs:
      given, taken = getattr(configs[name], field), getattr(network, theirs)
      if given != taken:
        raise ConversionError(
          f"the {name} has {field} {given} but the network {theirs} {taken}: "
          f"these belong to different checkpoints; use the network's own {name}"
        )


def _check_tensor(tensor: StoredTensor, piece: Piece) -> None:
  if tensor.shape != piece.shape:
    raise ConversionError(
      f"tensor {tensor.label} has shape {list(tensor.shape)}, this model needs "
      f"{list(piece.shape)}: the file, or a config.json beside it, is of "
      "another model; fetch all of it from one place"
    )
  if tensor.dtype not in INPUT_DTYPES:
    raise ConversionError(
      f"tensor {tensor.label} has dtype {tensor.dtype}; weights may be "
      f"{', '.join(INPUT_DTYPES)}: re-save it"
    )


def _array_dtypes(
  pieces: list[Piece], tensors: Mapping[str, StoredTensor], dtype: str | None
) -> dict[str, np.dtype]:
  """The dtype of every array that has a source."""
  found: dict[str, dict[np.dtype, str]] = {}
  for piece in pieces:
    kept = output_dtype(tensors[piece.name].dtype, dtype)
    found.setdefault(piece.array, {})[kept] = piece.name
  for path, dtypes in found.items():
    if len(dtypes) > 1:
      seen = named(f"{name} {kept}" for kept, name in dtypes.items())
      raise ConversionError(
        f"array {path} would mix dtypes ({seen}): name one with --dtype="
      )
  return {path: next(iter(dtypes)) for path, dtypes in found.items()}
