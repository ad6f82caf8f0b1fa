"""Everything that a training step changes, and where it lives."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ddit_jax.models.network import Network
from ddit_jax.train.moment_layout import moment_shardings

_COUNTS = ("step", "num_skipped", "num_skipped_in_row")


@flax.struct.dataclass
class TrainState:
  """The state of a run.

  Attributes:
    step: batches trained on so far, int32.
    num_skipped: of them left out because a loss or gradient was not finite.
    num_skipped_in_row: of the last ones, without a finite one between.
    params: trained parameters, float32.
    ema: their moving average, float32.
    opt_state: the optimiser's moments.
    constants: stored arrays that are not trained (the position table).
    frozen: variables by the model's names for its parts, of the encoders and
      of what a network under adapters adds to them; they come from elsewhere
      at every start, so no checkpoint holds them.
  """

  step: jax.Array
  num_skipped: jax.Array
  num_skipped_in_row: jax.Array
  params: Any
  ema: Any
  opt_state: Any
  constants: Any
  frozen: dict[str, Any] = flax.struct.field(default_factory=dict)

  def variables(self, params: Any) -> dict[str, Any]:
    """The whole model's, with `params` (trained or averaged) as weights."""
    network = {"params": params, "constants": self.constants}
    network |= self.frozen.get("network", {})
    return {**self.frozen, "network": network}

  def items(self) -> dict[str, Any]:
    """The state as named trees, as a checkpoint stores it; not `frozen`."""
    return {
      "progress": {name: getattr(self, name) for name in _COUNTS},
      "params": self.params,
      "ema": self.ema,
      "opt_state": self.opt_state,
      "constants": self.constants,
    }

  @classmethod
  def from_items(cls, items: dict[str, Any]) -> "TrainState":
    """The inverse of `items`, with nothing frozen."""
    return cls(
      **items["progress"],
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
    **{name: jnp.zeros((), jnp.int32) for name in _COUNTS},
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

  Moments lie where their parameters lie, see `moment_shardings`.
  """
  variables = network.shardings(mesh)
  abstract = abstract_state(network, optimizer)
  replicated = NamedSharding(mesh, PartitionSpec())
  return TrainState(
    **dict.fromkeys(_COUNTS, replicated),
    params=variables["params"],
    ema=variables["params"],
    opt_state=moment_shardings(
      optimizer, abstract.opt_state, abstract.params, variables["params"]
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
