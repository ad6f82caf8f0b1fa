"""The MM-DiT as pure functions of plain trees."""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ddit_jax.models.mmdit import Execution, MMDiT, Prediction
from ddit_jax.models.sizes import MMDiTConfig
from ddit_jax.sharding.placement import PlacedLeaf, placements, shardings

# A tree {"params": trained arrays, "constants": stored position table}.
Variables = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Network:
  """Initialisation, application and layout of one MM-DiT.

  Attributes:
    config: shapes and variants.
    execution: precision, rematerialisation, kernels.
  """

  config: MMDiTConfig
  execution: Execution = Execution()

  @property
  def module(self) -> MMDiT:
    """The Linen module behind the functions."""
    return MMDiT(self.config, self.execution)

  def init(self, key: jax.Array) -> Variables:
    """Fresh variables, float32, unboxed; jit it with `shardings`."""
    return nn.unbox(self._boxed_init(key))

  def apply(
    self, variables: Variables, latents, text, sigma, pooled=None
  ) -> Prediction:
    """See `MMDiT.__call__`."""
    return self.module.apply(variables, latents, text, sigma, pooled)

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
    """How many trained numbers there are (the position table is stored)."""
    leaves = jax.tree.leaves(self.abstract_variables()["params"])
    return sum(math.prod(leaf.shape) for leaf in leaves)

  def _boxed_init(self, key: jax.Array) -> Variables:
    cfg = self.config
    side = cfg.patch_size
    latents = jnp.zeros((1, side, side, cfg.latent_channels))
    if cfg.context_dim is None:
      text = jnp.zeros((1, 1), jnp.int32)
    else:
      text = jnp.zeros((1, 1, cfg.context_dim))
    return self.module.init(key, latents, text, jnp.zeros(1))

  def _abstract_boxed(self) -> Variables:
    return jax.eval_shape(self._boxed_init, jax.random.key(0))
