"""Any Linen module with named axes, as pure functions of plain trees."""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ddit_jax.models.precision import checked_dtype
from ddit_jax.sharding.placement import PlacedLeaf, placements, shardings

# A tree {"params": trained arrays}, with {"constants": stored ones} where the
# module has any.
Variables = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PureModule:
  """Initialisation, application and layout of one module.

  Attributes:
    module: the Linen module; it holds settings, no arrays.
    example_inputs: arguments of its `__call__`, of the smallest shapes that
      create every parameter.
    parameter_dtype: the dtype in which parameters are kept, "float32" or
      "bfloat16" (for frozen encoders: half the memory).
  """

  module: nn.Module
  example_inputs: tuple[jax.ShapeDtypeStruct, ...]
  parameter_dtype: str = "float32"

  def __post_init__(self):
    checked_dtype(self.parameter_dtype)

  def init(self, key: jax.Array) -> Variables:
    """Fresh variables, unboxed; jit it with `shardings`."""
    return nn.unbox(self._boxed_init(key))

  def apply(self, variables: Variables, *inputs, method: str | None = None):
    """Calls the module, or its method of that name, with these variables."""
    return self.module.apply(variables, *inputs, method=method)

  def abstract_variables(self) -> Variables:
    """Shapes and dtypes of all variables; nothing is allocated."""
    return nn.unbox(self._abstract_boxed())

  def shardings(self, mesh: Mesh) -> Variables:
    """A NamedSharding for every variable, from the rule table."""
    return shardings(self._abstract_boxed(), mesh)

  def placements(self, mesh: Mesh) -> list[PlacedLeaf]:
    """Where every variable lies, for reports."""
    return placements(self._abstract_boxed(), mesh)

  def init_sharded(self, key: jax.Array, mesh: Mesh) -> Variables:
    """Fresh variables created directly on their devices."""
    key = jax.device_put(key, NamedSharding(mesh, PartitionSpec()))
    init = jax.jit(self.init, out_shardings=self.shardings(mesh))
    return init(key)

  def num_parameters(self) -> int:
    """How many trained numbers there are; constants do not count."""
    leaves = jax.tree.leaves(self.abstract_variables()["params"])
    return sum(math.prod(leaf.shape) for leaf in leaves)

  def _boxed_init(self, key: jax.Array) -> Variables:
    zeros = [jnp.zeros(x.shape, x.dtype) for x in self.example_inputs]
    boxed = self.module.init(key, *zeros)
    dtype = jnp.dtype(self.parameter_dtype)
    params = jax.tree.map(lambda array: array.astype(dtype), boxed["params"])
    return {**boxed, "params": params}

  def _abstract_boxed(self) -> Variables:
    return jax.eval_shape(self._boxed_init, jax.random.key(0))
