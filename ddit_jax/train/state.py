"""The state of training, and its shardings."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Int32, Key

from ddit_jax.models.module import Network, Variables
from ddit_jax.sharding.placement import with_shardings

# Steps are counted in int32.
MAX_TRAIN_STEPS = 2**31 - 1


def moment_shardings(
  optimizer: optax.GradientTransformation,
  opt_state: Any,
  params: Any,
  shardings: Any,
) -> Any:
  """A NamedSharding for every array of an optimizer's state.

  Counters are replicated. A moment is split as its parameter is; one that is a
  mean over a dimension likewise, without that dimension. Without this, a state
  created under jit on an Auto mesh would silently be replicated.

  Args:
    optimizer: the optimizer that created the state.
    opt_state: its abstract state.
    params: the abstract parameters.
    shardings: their NamedShardings.

  Raises:
    ValueError: a moment has another shape, so its sharding is unknown.
  """
  mesh = jax.tree.leaves(shardings)[0].mesh
  replicated = NamedSharding(mesh, PartitionSpec())
  return optax.tree.map_params(
    optimizer,
    _moment_sharding,
    opt_state,
    params,
    shardings,
    transform_non_params=lambda _: replicated,
    is_leaf=_is_absent,
  )


def _is_absent(moment) -> bool:
  """True where another optimizer of a mixed chain has the parameter."""
  return isinstance(moment, optax.MaskedNode)


def _moment_sharding(moment, param, sharding: NamedSharding):
  if _is_absent(moment):
    return moment
  if moment.shape == param.shape:
    return sharding
  mesh, ndim = sharding.mesh, len(param.shape)
  # What optax stores in place of unused moments.
  if moment.shape == (1,):
    return NamedSharding(mesh, PartitionSpec(None))
  spec = (*sharding.spec, *(None,) * (ndim - len(sharding.spec)))
  means = [
    NamedSharding(mesh, PartitionSpec(*spec[:axis], *spec[axis + 1 :]))
    for axis in range(ndim)
    if (*param.shape[:axis], *param.shape[axis + 1 :]) == moment.shape
  ]
  if not means:
    raise ValueError(
      f"a moment of shape {moment.shape} of a parameter of shape {param.shape} "
      "cannot be sharded: choose another optimizer.kind"
    )
  # Among equal dimensions, keep the one that is split.
  return min(means, key=lambda mean: _local_size(mean, moment.shape))


def _local_size(sharding: NamedSharding, shape: tuple[int, ...]) -> int:
  return jax.ShapeDtypeStruct(sharding.shard_shape(shape), float).size


_COUNTS = ("step", "num_skipped", "num_skipped_in_row")


@flax.struct.dataclass
class TrainState:
  """The state of a run.

  Attributes:
    step: batches trained on so far, int32.
    num_skipped: of them, skipped because a loss or gradient was not finite.
    num_skipped_in_row: skipped since the last batch that was not skipped.
    params: trained parameters, float32.
    ema: their exponential moving average, float32.
    opt_state: the optimizer's moments.
    constants: stored arrays that are not trained (the position table), if
      there are any.
    frozen: part of the model -> its frozen variables: of the encoders, and of
      the network below adapters. They are loaded from elsewhere at every start,
      so no checkpoint holds them.
  """

  step: Int32[Array, ""]
  num_skipped: Int32[Array, ""]
  num_skipped_in_row: Int32[Array, ""]
  params: Any
  ema: Any
  opt_state: Any
  constants: Any
  frozen: dict[str, Any] = flax.struct.field(default_factory=dict)

  def variables(self, params: Any) -> dict[str, Any]:
    """The whole model's, with `params` or `ema` as the network's weights."""
    network = {"params": params, "constants": self.constants}
    network |= self.frozen.get("network", {})
    return {**self.frozen, "network": network}

  def items(self) -> dict[str, Any]:
    """The state as named trees, as a checkpoint stores it; not `frozen`."""
    items = {
      "progress": {name: getattr(self, name) for name in _COUNTS},
      "params": self.params,
      "ema": self.ema,
      "opt_state": self.opt_state,
    }
    return items | ({"constants": self.constants} if self.constants else {})

  def num_bytes(self) -> int:
    """Size of the arrays in a checkpoint; the state may be abstract."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(self.items()))

  @classmethod
  def from_items(cls, items: dict[str, Any]) -> "TrainState":
    """The inverse of `items`, with nothing frozen."""
    return cls(
      **items["progress"],
      params=items["params"],
      ema=items["ema"],
      opt_state=items["opt_state"],
      constants=items.get("constants", {}),
    )


def init_state(
  network: Network,
  optimizer: optax.GradientTransformation,
  key: Key[Array, ""],
) -> TrainState:
  """The state of step 0; jit it with `state_shardings` as out_shardings."""
  return _first_state(network.init(key), optimizer)


def _first_state(
  variables: Variables, optimizer: optax.GradientTransformation
) -> TrainState:
  params = variables["params"]
  return TrainState(
    **{name: jnp.zeros((), jnp.int32) for name in _COUNTS},
    params=params,
    # A copy, because buffers shared with the EMA could not be donated.
    ema=jax.tree.map(jnp.copy, params),
    opt_state=optimizer.init(params),
    constants=variables.get("constants", {}),
  )


def state_shardings(
  network: Network, optimizer: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
  """A NamedSharding for every array of the state.

  Moments are split as their parameters are, see `moment_shardings`.
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
    constants=variables.get("constants", {}),
  )


def abstract_state(
  network: Network,
  optimizer: optax.GradientTransformation,
  shardings: TrainState | None = None,
) -> TrainState:
  """Shapes and dtypes (and shardings) of a state; nothing is allocated."""
  abstract = jax.eval_shape(
    lambda variables: _first_state(variables, optimizer),
    network.abstract_variables(),
  )
  if shardings is None:
    return abstract
  return with_shardings(abstract, shardings)
