"""Weights that are gathered once a step rather than at each use."""

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from jax.typing import DTypeLike

from ddit_jax.sharding.rules import axes_of

_GATHERED = "fsdp"


def gathered(params, shardings, dtype: DTypeLike):
  """Copies of the parameters for a whole step: whole along `fsdp`.

  Differentiate with respect to the copies and give the gradient to
  `scattered`: the transpose of a gather under a sharding constraint would sum
  gradients over all devices and only then drop what a device does not keep.

  Args:
    params: parameters on a mesh, under jit.
    shardings: their NamedShardings.
    dtype: of the copies, that of the computation. Parameters that `fsdp` does
      not split are returned as they are, since nothing is gathered.
  """

  def one(param, place: NamedSharding):
    if not _is_split(place):
      return param
    # Cast before anything is sent.
    copy = jax.lax.with_sharding_constraint(param.astype(dtype), place)
    whole = NamedSharding(place.mesh, _without_fsdp(place.spec))
    return jax.lax.with_sharding_constraint(copy, whole)

  return jax.tree.map(one, params, shardings)


def scattered(grads, shardings):
  """Gradients of `gathered`'s copies in float32, split like the parameters."""

  def one(grad, place: NamedSharding):
    grad = jax.lax.with_sharding_constraint(grad, place)
    return grad.astype(jnp.float32)

  return jax.tree.map(one, grads, shardings)


def _is_split(place: NamedSharding) -> bool:
  axes = {axis for entry in place.spec for axis in axes_of(entry)}
  return _GATHERED in axes and place.mesh.shape[_GATHERED] > 1


def _without_fsdp(spec: PartitionSpec) -> PartitionSpec:
  return PartitionSpec(
    *(
      tuple(axis for axis in axes_of(entry) if axis != _GATHERED) or None
      for entry in spec
    )
  )
