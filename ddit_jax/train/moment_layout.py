"""Where an optimiser's moments lie: beside the parameters they belong to."""

from typing import Any

import jax
import optax
from jax.sharding import NamedSharding, PartitionSpec


def moment_shardings(
  optimizer: optax.GradientTransformation,
  opt_state: Any,
  params: Any,
  shardings: Any,
) -> Any:
  """A NamedSharding for every array of an optimiser's state.

  Counters are replicated. A moment lies where its parameter lies; one that is
  a mean over a dimension lies there, too, without that dimension. Without
  this, a state made under jit on an Auto mesh would silently be replicated.

  Args:
    optimizer: what made the state.
    opt_state: its abstract state.
    params: the abstract parameters.
    shardings: their NamedShardings.

  Raises:
    ValueError: a moment has another shape, so nothing is known about it.
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
  """True where another optimiser of a mixed chain has the parameter."""
  return isinstance(moment, optax.MaskedNode)


def _moment_sharding(moment, param, sharding: NamedSharding):
  if _is_absent(moment):
    return moment
  if moment.shape == param.shape:
    return sharding
  mesh, ndim = sharding.mesh, len(param.shape)
  # What optax keeps in place of the moments that it does not use.
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
      "cannot be laid out: choose another optimizer.kind"
    )
  # Of equal dimensions, keep the one that is split.
  return min(means, key=lambda mean: _local_size(mean, moment.shape))


def _local_size(sharding: NamedSharding, shape: tuple[int, ...]) -> int:
  return jax.ShapeDtypeStruct(sharding.shard_shape(shape), float).size
