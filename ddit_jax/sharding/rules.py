"""The table from logical axes to mesh axes, and the shardings it gives.

Modules name what a dimension *is* ("embed", "heads"); this table says where
it *goes*. Print it with `table()`.
"""

import dataclasses
import math

import flax.linen as nn
import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec
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
  "embed": ("fsdp",),  # the width of a weight's input
  "width": None,  # the width of an activation, or of a weight's output
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlacedLeaf:
  """The placement of one array of a tree.

  Attributes:
    path: names in the tree, joined by "/".
    shape: the global shape.
    spec: the mesh axes of each dimension.
    dropped: mesh axes of the table that do not divide the dimension.
    bytes_per_device: memory on one device.
  """

  path: str
  shape: tuple[int, ...]
  spec: PartitionSpec
  dropped: tuple[str, ...]
  bytes_per_device: int


def shardings(boxed, mesh: Mesh | AbstractMesh):
  """NamedShardings for a tree of `nn.LogicallyPartitioned` abstract arrays.

  Args:
    boxed: the result of `jax.eval_shape` on a Linen `init`.
    mesh: the device mesh.

  Returns:
    A tree of NamedShardings with the structure of the unboxed tree.
  """

  def one(leaf):
    return NamedSharding(mesh, _spec_of(leaf, mesh)[0])

  return jax.tree.map(one, boxed, is_leaf=_is_boxed)


def with_shardings(abstract, shardings):
  """A tree of `jax.ShapeDtypeStruct` with the shardings of an equal tree."""
  return jax.tree.map(
    lambda leaf, sharding: jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=sharding
    ),
    abstract,
    shardings,
  )


def placements(boxed, mesh: Mesh | AbstractMesh) -> list[PlacedLeaf]:
  """The placement of every array of a tree."""
  rows = []
  leaves = jax.tree_util.tree_leaves_with_path(boxed, is_leaf=_is_boxed)
  for path, leaf in leaves:
    spec, dropped = _spec_of(leaf, mesh)
    array = nn.unbox(leaf)
    local = NamedSharding(mesh, spec).shard_shape(array.shape)
    rows.append(
      PlacedLeaf(
        path=jax.tree_util.keystr(path, simple=True, separator="/"),
        shape=array.shape,
        spec=spec,
        dropped=dropped,
        bytes_per_device=math.prod(local) * array.dtype.itemsize,
      )
    )
  return rows


def report(rows: list[PlacedLeaf]) -> str:
  """Lists arrays that the mesh does not split as the table asks.

  The last line gives the total bytes per device.
  """
  lines = [
    f"replicated along {', '.join(row.dropped)}: {row.path} {row.shape}"
    for row in rows
    if row.dropped
  ]
  total = sum(row.bytes_per_device for row in rows)
  lines.append(
    f"{len(rows)} arrays, {total / 2**20:.2f} MiB per device, "
    f"{len(lines)} not split as the table asks"
  )
  return "\n".join(lines)


def _is_boxed(leaf) -> bool:
  return isinstance(leaf, nn.LogicallyPartitioned)


def _spec_of(
  leaf, mesh: Mesh | AbstractMesh
) -> tuple[PartitionSpec, tuple[str, ...]]:
  if not _is_boxed(leaf):
    return PartitionSpec(*(None,) * leaf.ndim), ()
  asked = partition_spec(*leaf.names)
  shape = nn.unbox(leaf).shape
  given = divisible_spec(asked, shape, dict(mesh.shape))
  dropped = tuple(
    axis
    for wish, got in zip(asked, given, strict=True)
    for axis in axes_of(wish)[len(axes_of(got)) :]
  )
  return given, dropped
