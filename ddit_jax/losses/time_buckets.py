"""Losses by diffusion time: the times at which the network errs."""

import itertools
import math
from collections.abc import Mapping

import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

_NUM_BUCKETS = 5
# Prefixes of the names of losses in buckets.
BUCKETED = "loss_by_"


@flax.struct.dataclass
class Buckets:
  """Sums over equal parts of [0, 1]; those of a batch's parts add up.

  Attributes:
    total: of the values, float32 [NUM_BUCKETS].
    count: the number of values they sum, float32 [NUM_BUCKETS].
  """

  total: Float[Array, " buckets"]
  count: Float[Array, " buckets"]


def sort_into_buckets(
  values: Float[Array, " batch"],
  times: Float[Array, " batch"],
  counts: Int[Array, " batch"] | None = None,
) -> Buckets:
  """Adds each example's value to the bucket of its time.

  Args:
    values: e.g. each example's squared error.
    times: sigma or text time, in [0, 1].
    counts: number of terms in each value; None means one.
  """
  if counts is None:
    counts = jnp.ones(times.shape, int)
  number = jnp.clip((times * _NUM_BUCKETS).astype(int), 0, _NUM_BUCKETS - 1)
  is_in = number[:, None] == jnp.arange(_NUM_BUCKETS)[None]
  return Buckets(
    total=jnp.where(is_in, values[:, None], 0.0).sum(axis=0),
    count=jnp.where(is_in, counts[:, None].astype(jnp.float32), 0.0).sum(
      axis=0
    ),
  )


def without_empty(scalars: Mapping[str, float]) -> dict[str, float]:
  """The scalars without the NaN of empty buckets."""
  return {
    name: value
    for name, value in scalars.items()
    if not (name.startswith(BUCKETED) and math.isnan(value))
  }


def bucket_means(name: str, buckets: Buckets) -> dict[str, Float[Array, ""]]:
  """{"NAME/0.2-0.4": mean}; NaN for empty buckets."""
  means = buckets.total / buckets.count
  edges = [number / _NUM_BUCKETS for number in range(_NUM_BUCKETS + 1)]
  return {
    f"{name}/{low:.1f}-{high:.1f}": means[number]
    for number, (low, high) in enumerate(itertools.pairwise(edges))
  }
