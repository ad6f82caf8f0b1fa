"""Linen modules with named axes, as pure functions of plain trees."""

import collections
import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from ddit_jax.models.config import MMDiTConfig
from ddit_jax.models.layers import checked_dtype
from ddit_jax.models.mmdit import Execution, MMDiT, TextHead
from ddit_jax.sharding.placement import (
  PlacedLeaf,
  Placement,
  placements,
  shardings,
)

# {"params": trained arrays}, and {"constants": stored ones} if there are any.
Variables = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PureModule:
  """Initialisation, application and sharding of one module.

  Attributes:
    module: the Linen module, which holds no arrays.
    example_inputs: arguments of its `__call__`, of the smallest shapes that
      create every parameter.
    parameter_dtype: the dtype in which parameters are kept, "float32" or
      "bfloat16" (for frozen encoders: half the memory).
    placement: how a mesh splits the variables.
  """

  module: nn.Module
  example_inputs: tuple[jax.ShapeDtypeStruct, ...]
  parameter_dtype: str = "float32"
  placement: Placement = Placement()

  def __post_init__(self):
    checked_dtype(self.parameter_dtype)

  def init(self, key: jax.Array) -> Variables:
    """New variables, unboxed; jit it with `shardings`."""
    return nn.unbox(self._boxed_init(key))

  def apply(
    self, variables: Variables, *inputs, method: str | None = None, **options
  ):
    """Calls the module, or its method of that name, with these variables."""
    return self.module.apply(variables, *inputs, method=method, **options)

  def abstract_variables(self) -> Variables:
    """Shapes and dtypes of all variables; nothing is allocated."""
    return nn.unbox(self._abstract_boxed)

  def shardings(self, mesh: Mesh | AbstractMesh) -> Variables:
    """A NamedSharding for every variable, from the rule table."""
    return shardings(self._abstract_boxed, mesh, self.placement)

  def placements(self, mesh: Mesh | AbstractMesh) -> list[PlacedLeaf]:
    """The placement of every variable, for reports."""
    return placements(self._abstract_boxed, mesh, self.placement)

  def init_sharded(self, key: jax.Array, mesh: Mesh) -> Variables:
    """New variables, created directly on their devices."""
    key = jax.device_put(key, NamedSharding(mesh, PartitionSpec()))
    init = jax.jit(self.init, out_shardings=self.shardings(mesh))
    return init(key)

  def num_parameters(self) -> int:
    """The number of trained parameters; constants are not counted."""
    leaves = jax.tree.leaves(self.abstract_variables()["params"])
    return sum(math.prod(leaf.shape) for leaf in leaves)

  def _boxed_init(self, key: jax.Array) -> Variables:
    zeros = [jnp.zeros(x.shape, x.dtype) for x in self.example_inputs]
    boxed = self.module.init(key, *zeros)
    dtype = jnp.dtype(self.parameter_dtype)

    def stored(array: jax.Array) -> jax.Array:
      is_float = jnp.issubdtype(array.dtype, jnp.floating)
      return array.astype(dtype) if is_float else array

    return {**boxed, "params": jax.tree.map(stored, boxed["params"])}

  @property
  def _abstract_boxed(self) -> Variables:
    return _abstract_boxed(self)


@functools.lru_cache(maxsize=64)
def _abstract_boxed(module: PureModule) -> Variables:
  """Kept for all equal modules, since tracing an init takes a second."""
  return jax.eval_shape(module._boxed_init, jax.random.key(0))


# Name of the trained mask token embedding, which replaces the text encoder's
# (paper section 4.1).
MASK_EMBEDDING = "mask_embedding"


# Decorated again, so that equality (jit's cache key) includes the new field.
@dataclasses.dataclass(frozen=True, kw_only=True, init=False)
class Network(PureModule):
  """One MM-DiT; its constants are the stored position table.

  Attributes:
    has_mask_embedding: True keeps `MASK_EMBEDDING`, [context_dim], beside the
      parameters; the MM-DiT itself does not read it.
  """

  has_mask_embedding: bool

  def __init__(
    self,
    config: MMDiTConfig,
    execution: Execution = Execution(),
    *,
    parameter_dtype: str = "float32",
    placement: Placement = Placement(),
    has_mask_embedding: bool = False,
  ):
    """Raises ValueError for a mask embedding without a text encoder."""
    if has_mask_embedding and config.context_dim is None:
      raise ValueError(
        "model.has_mask_embedding needs a text encoder: this network embeds "
        "its tokens itself"
      )
    # The parent's dataclass is frozen.
    object.__setattr__(self, "has_mask_embedding", has_mask_embedding)
    super().__init__(
      module=MMDiT(config, execution),
      example_inputs=_smallest_inputs(config),
      parameter_dtype=parameter_dtype,
      placement=placement,
    )

  @property
  def config(self) -> MMDiTConfig:
    """Shapes and variants."""
    return self.module.config

  @property
  def execution(self) -> Execution:
    """Precision, rematerialisation, kernels."""
    return self.module.execution

  def text_logits(
    self,
    variables: Variables,
    text_hidden: Float[Array, "batch length features"],
  ) -> Float[Array, "batch length vocab"]:
    """The text head alone, on any positions of `Prediction.text_hidden`."""
    dtype = jnp.dtype(self.execution.dtype)
    head = TextHead(self.config.vocab_size, dtype)
    return head.apply({"params": variables["params"]["text_head"]}, text_hidden)

  def token_axes(self) -> dict[str, int]:
    """Parameters with a row for each token: dotted name to that axis."""
    boxed = jax.tree_util.tree_leaves_with_path(
      self._abstract_boxed["params"],
      is_leaf=lambda leaf: isinstance(leaf, nn.LogicallyPartitioned),
    )
    return {
      jax.tree_util.keystr(path, simple=True, separator="."): axis
      for path, leaf in boxed
      for axis, name in enumerate(getattr(leaf, "names", ()))
      if name == "vocab"
    }

  def mask_embedding(
    self, variables: Variables
  ) -> Float[Array, " context_dim"]:
    """The trained mask token embedding, if `has_mask_embedding`."""
    return variables["params"][MASK_EMBEDDING]

  def _boxed_init(self, key: jax.Array) -> Variables:
    boxed = super()._boxed_init(key)
    if self.has_mask_embedding:
      embedding = jnp.zeros(self.config.context_dim, jnp.float32)
      boxed["params"][MASK_EMBEDDING] = nn.LogicallyPartitioned(
        embedding, ("channels",)
      )
    return boxed


def _smallest_inputs(config: MMDiTConfig) -> tuple[jax.ShapeDtypeStruct, ...]:
  """One patch and one token."""
  side = config.patch_size
  latents = (1, side, side, config.latent_channels)
  if config.context_dim is None:
    text = jax.ShapeDtypeStruct((1, 1), jnp.int32)
  else:
    text = jax.ShapeDtypeStruct((1, 1, config.context_dim), jnp.float32)
  return (
    jax.ShapeDtypeStruct(latents, jnp.float32),
    text,
    jax.ShapeDtypeStruct((1,), jnp.float32),
  )


_STREAMS = ("image", "text")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParameterCounts:
  """The parameter counts of one network.

  Attributes:
    parts: number of parameters by part ("text stream", "time embedding", ...),
      largest first.
    stored: values that are stored but not trained (the position table).
  """

  parts: Mapping[str, int]
  stored: int

  @property
  def total(self) -> int:
    """Parameters of all parts."""
    return sum(self.parts.values())


def parameter_counts(variables: Variables) -> ParameterCounts:
  """Counts by part: the MM-DiT's two streams, or the top-level modules.

  Args:
    variables: arrays, or the shapes of `PureModule.abstract_variables`.
  """
  parts: collections.Counter[str] = collections.Counter()
  for path, leaf in jax.tree_util.tree_leaves_with_path(variables["params"]):
    parts[_part(tuple(entry.key for entry in path))] += math.prod(leaf.shape)
  stored = jax.tree.leaves(variables.get("constants", {}))
  return ParameterCounts(
    parts=dict(parts.most_common()),
    stored=sum(math.prod(leaf.shape) for leaf in stored),
  )


def counts_table(counts: Mapping[str, ParameterCounts]) -> str:
  """The counts of several networks as lines of text.

  Args:
    counts: by network ("network", "text_encoder").
  """
  rows = []
  for name, count in counts.items():
    rows.append((name, count.total))
    rows += [(f"  {part}", size) for part, size in count.parts.items()]
    if count.stored:
      rows.append(("  stored, not trained", count.stored))
  names = max(len(name) for name, _ in rows)
  sizes = max(len(f"{size:,}") for _, size in rows)
  return "\n".join(f"{name:<{names}}  {size:>{sizes},}" for name, size in rows)


def _part(path: tuple[str, ...]) -> str:
  if len(path) > 1 and path[1] in _STREAMS:
    return f"{path[1]} stream"
  return path[0].replace("_", " ")
