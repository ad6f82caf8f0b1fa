"""The table from logical axes to mesh axes, and constraints by it.

Modules name what a dimension *is* ("embed", "heads"); this table says where
it *goes*. Print it with `table()`.
"""

import math

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Shaped

# From the slowest links to the fastest: neighbours along the last axis are
# neighbours in the network of the devices.
MESH_AXES = ("replica", "fsdp", "context", "tensor")

# None: never split. A tuple: split over the product of these mesh axes.
AXIS_RULES: dict[str, tuple[str, ...] | None] = {
  "batch": ("replica", "fsdp"),  # examples of a global batch
  "images": MESH_AXES,  # examples in the autoencoder, which has no tokens
  "layers": None,  # the scanned block dimension
  "tokens": ("context",),  # where heads, MLP or vocabulary are over tensor
  "stream_tokens": ("context", "tensor"),  # of the residual stream
  "positions": None,  # rows of learned tables, one per token
  "embed": ("fsdp",),  # a weight's dimension of the model's width
  "width": None,  # of an activation, or a weight's second such dimension
  "heads": ("tensor",),
  "head_dim": None,
  "mlp": ("tensor",),
  "vocab": ("tensor",),
  "modulation": ("tensor",),  # outputs of adaLN's weights
  "channels": None,  # latent channels, sinusoid channels, values of a patch
  "rows": None,  # stacked outputs of one weight: q, k, v; shift, scale, gate
}


def partition_spec(*logical_axes: str | None) -> PartitionSpec:
  """The mesh axes of an array whose dimensions have these names.

  Raises:
    ValueError: a name is not in the table, or a mesh axis would be used
      twice by one array.
  """
  entries, used = [], []
  for name in logical_axes:
    if name is not None and name not in AXIS_RULES:
      raise ValueError(
        f"unknown logical axis {name!r}; the table has {sorted(AXIS_RULES)}"
      )
    mesh_axes = AXIS_RULES[name] if name is not None else None
    entries.append(mesh_axes)
    used.extend(mesh_axes or ())
  if len(used) != len(set(used)):
    raise ValueError(f"{logical_axes} uses a mesh axis twice: {entries}")
  return PartitionSpec(*entries)


def constrain(
  array: Shaped[Array, "*dims"], *logical_axes: str | None
) -> Shaped[Array, "*dims"]:
  """Constrains an activation's sharding under `jax.set_mesh`.

  Dimensions that their mesh axes do not divide are left to the compiler.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or mesh.size == 1:
    return array
  spec = divisible_spec(
    partition_spec(*logical_axes), array.shape, dict(mesh.shape)
  )
  return jax.lax.with_sharding_constraint(array, spec)


def num_shards(logical_axis: str) -> int:
  """Parts that an axis is split into under `jax.set_mesh`; 1 without it."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return 1
  return math.prod(mesh.shape[axis] for axis in AXIS_RULES[logical_axis] or ())


def repeated_rows(
  array: Shaped[Array, "batch *rest"], num: int
) -> Shaped[Array, "rows *rest"]:
  """Each row `num` times, so that a sharded batch stays on its devices."""
  repeated = jnp.repeat(array, num, axis=0)
  return constrain(repeated, "batch", *(None,) * (array.ndim - 1))


def divisible_spec(
  spec: PartitionSpec, shape: tuple[int, ...], mesh_shape: dict[str, int]
) -> PartitionSpec:
  """`spec` without the mesh axes that do not divide their dimension.

  Of several axes on one dimension, the first ones that divide it are kept.
  """
  entries = []
  for entry, size in zip(spec, shape, strict=True):
    axes = axes_of(entry)
    while size % math.prod(mesh_shape[axis] for axis in axes):
      axes = axes[:-1]
    entries.append(entry if axes == axes_of(entry) else axes or None)
  return PartitionSpec(*entries)


def axes_of(entry: str | tuple[str, ...] | None) -> tuple[str, ...]:
  """The mesh axes of one entry of a PartitionSpec."""
  return (entry,) if isinstance(entry, str) else entry or ()


def table() -> str:
  """The rules as text, one line per logical axis."""
  width = max(map(len, AXIS_RULES))
  return "\n".join(
    f"{name:<{width}}  {' x '.join(axes) if axes else '-'}"
    for name, axes in AXIS_RULES.items()
  )
