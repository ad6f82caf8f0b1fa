"""Everything that a training step changes, and where it lives."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ddit_jax.models.network import Network


@flax.struct.dataclass
class TrainState:
  """The state of a run.

  Attributes:
    step: updates done so far, int32.
    params: trained parameters, float32.
    ema: their moving average, float32.
    opt_state: the optimiser's moments.
    constants: stored arrays that are not trained (the position table).
    frozen: variables of the encoders by the model's names for them; they
      come from elsewhere at every start, so no checkpoint holds them.
  """

  step: jax.Array
  params: Any
  ema: Any
  opt_state: Any
  constants: Any
  frozen: dict[str, Any] = flax.struct.field(default_factory=dict)

  def variables(self, params: Any) -> dict[str, Any]:
    """The whole model's, with `params` (trained or averaged) as weights."""
    network = {"params": params, "constants": self.constants}
    return {**self.frozen, "network": network}

  def items(self) -> dict[str, Any]:
    """The state as named trees, as a checkpoint stores it; not `frozen`."""
    return {
      "progress": {"step": self.step},
      "params": self.params,
      "ema": self.ema,
      "opt_state": self.opt_state,
      "constants": self.constants,
    }

  @classmethod
  def from_items(cls, items: dict[str, Any]) -> "TrainState":
    """The inverse of `items`, with nothing frozen."""
    return cls(
      step=items["progress"]["step"],
      params=items["params"],
      ema=items["ema"],
      opt_state=items["opt_state"],
      constants=items["constants"],
    )


def init_state(
  network: Network, optimizer: optax.GradientTransformation, key: jax.Array
) -> TrainState:
  """A fresh state; jit it with `state_shardings` to create it in place."""
  variables = network.init(key)
  params = variables["params"]
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=params,
    # A copy: an aliased average would keep the buffers from being donated.
    ema=jax.tree.map(jnp.copy, params),
    opt_state=optimizer.init(params),
    constants=variables["constants"],
  )


def state_shardings(
  network: Network, optimizer: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
  """A NamedSharding for every array of the state.

  Moments lie where their parameters lie. Without this, an optimiser state
  made under jit on an Auto mesh would silently be replicated.
  """
  variables = network.shardings(mesh)
  abstract = abstract_state(network, optimizer)
  replicated = NamedSharding(mesh, PartitionSpec())
  return TrainState(
    step=replicated,
    params=variables["params"],
    ema=variables["params"],
    opt_state=optax.tree.map_params(
      optimizer,
      lambda _, sharding: sharding,
      abstract.opt_state,
      variables["params"],
      transform_non_params=lambda _: replicated,
    ),
    constants=variables["constants"],
  )


def abstract_state(
  network: Network,
  optimizer: optax.GradientTransformation,
  shardings: TrainState | None = None,
) -> TrainState:
  """Shapes and dtypes (and layouts) of a state; nothing is allocated."""
  abstract = jax.eval_shape(
    lambda key: init_state(network, optimizer, key), jax.random.key(0)
  )
  if shardings is None:
    return abstract
  return jax.tree.map(
    lambda leaf, where: jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=where
    ),
    abstract,
    shardings,
  )
