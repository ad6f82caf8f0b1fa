"""From an abstract parameter tree to shardings, with nothing left unsaid."""

import dataclasses
import math

import flax.linen as nn
import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ddit_jax.sharding.rules import axes_of, divisible_spec, partition_spec


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlacedLeaf:
  """Where one array of a tree lies.

  Attributes:
    path: its name in the tree, parts joined by "/".
    shape: its global shape.
    spec: the mesh axes of each dimension.
    dropped: mesh axes the table asked for that do not divide the dimension.
    bytes_per_device: memory one device needs for it.
  """

  path: str
  shape: tuple[int, ...]
  spec: PartitionSpec
  dropped: tuple[str, ...]
  bytes_per_device: int


def shardings(boxed, mesh: Mesh):
  """NamedShardings for a tree of `nn.LogicallyPartitioned` abstract arrays.

  Args:
    boxed: what `jax.eval_shape` of a Linen `init` returns.
    mesh: the device mesh.

  Returns:
    A tree of NamedSharding with the structure of the unboxed tree.
  """

  def one(leaf):
    return NamedSharding(mesh, _spec_of(leaf, mesh)[0])

  return jax.tree.map(one, boxed, is_leaf=_is_boxed)


def placements(boxed, mesh: Mesh) -> list[PlacedLeaf]:
  """One row an array: shape, layout, what could not be split, and bytes."""
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
  """Lines naming every array that the mesh could not split as the table asks.

  The last line sums up bytes per device.
  """
  lines = [
    f"replicated along {', '.join(row.dropped)}: {row.path} {row.shape}"
    for row in rows
    if row.dropped
  ]
  total = sum(row.bytes_per_device for row in rows)
  lines.append(
    f"{len(rows)} arrays, {total / 2**20:.2f} MiB a device, "
    f"{len(lines)} not split as the table asks"
  )
  return "\n".join(lines)


def _is_boxed(leaf) -> bool:
  return isinstance(leaf, nn.LogicallyPartitioned)


def _spec_of(leaf, mesh: Mesh) -> tuple[PartitionSpec, tuple[str, ...]]:
  if not _is_boxed(leaf):
    return PartitionSpec(*(None,) * leaf.ndim), ()
  asked = partition_spec(*leaf.names)
  shape = nn.unbox(leaf).shape
  given = divisible_spec(asked, shape, dict(mesh.shape))
  dropped = tuple(
    axis
    for wish, got in zip(asked, given, strict=True)
    if wish and not got
    for axis in axes_of(wish)
  )
  return given, dropped
