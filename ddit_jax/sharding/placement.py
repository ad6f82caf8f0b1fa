"""Where the weights of a module lie: shardings, and a table that explains them.

The table needs shapes only, so it can be printed for devices that are not
attached: `print(placement_table(module.placements(mesh)))`.
"""

import collections
import dataclasses
import math
from collections.abc import Iterable

import flax.linen as nn
import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from ddit_jax.sharding.rules import (
  MESH_AXES,
  axes_of,
  divisible_spec,
  partition_spec,
)

_MIB = 2**20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Placement:
  """How the weights of one module follow the rule table.

  Attributes:
    axes: the mesh axes that may split them; along others they are whole.
    min_split_bytes: smaller arrays are whole on every device.
  """

  axes: tuple[str, ...] = MESH_AXES
  min_split_bytes: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlacedLeaf:
  """The placement of one array of a tree.

  Attributes:
    path: names in the tree, joined by "/".
    shape: the global shape.
    spec: the mesh axes of each dimension.
    reason: why it is not split as the table asks, or not at all; "" if it is
      split as asked.
    is_refused: True if the cause is its shape: a mesh axis does not divide it.
    bytes_per_device: memory on one device.
  """

  path: str
  shape: tuple[int, ...]
  spec: PartitionSpec
  reason: str
  is_refused: bool
  bytes_per_device: int


def shardings(
  boxed, mesh: Mesh | AbstractMesh, placement: Placement = Placement()
):
  """NamedShardings for a tree of `nn.LogicallyPartitioned` abstract arrays.

  Args:
    boxed: the result of `jax.eval_shape` on a Linen `init`.
    mesh: the device mesh.
    placement: which of the rules apply.

  Returns:
    A tree of NamedShardings with the structure of the unboxed tree.
  """

  def one(leaf):
    return NamedSharding(mesh, _fit(leaf, mesh, placement)[0])

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


def placements(
  boxed, mesh: Mesh | AbstractMesh, placement: Placement = Placement()
) -> list[PlacedLeaf]:
  """The placement of every array of a tree; arguments as of `shardings`."""
  rows = []
  leaves = jax.tree_util.tree_leaves_with_path(boxed, is_leaf=_is_boxed)
  for path, leaf in leaves:
    spec, reason, is_refused = _fit(leaf, mesh, placement)
    array = nn.unbox(leaf)
    local = NamedSharding(mesh, spec).shard_shape(array.shape)
    rows.append(
      PlacedLeaf(
        path=jax.tree_util.keystr(path, simple=True, separator="/"),
        shape=array.shape,
        spec=spec,
        reason=reason,
        is_refused=is_refused,
        bytes_per_device=math.prod(local) * array.dtype.itemsize,
      )
    )
  return rows


def placement_table(rows: Iterable[PlacedLeaf]) -> str:
  """One line per array: KiB per device, path, shape, mesh axes, reason."""
  cells = [
    (
      f"{row.bytes_per_device / 1024:,.1f}",
      row.path,
      " x ".join(map(str, row.shape)),
      " ".join("+".join(axes_of(entry)) or "-" for entry in row.spec),
      row.reason,
    )
    for row in rows
  ]
  header = ("KiB per device", "array", "shape", "split along", "because")
  widths = [
    max(map(len, column)) for column in zip(header, *cells, strict=True)
  ]
  return "\n".join(
    "  ".join(
      [line[0].rjust(widths[0])]
      + [cell.ljust(n) for cell, n in zip(line[1:], widths[1:], strict=True)]
    ).rstrip()
    for line in (header, *cells)
  )


def placement_summary(rows: Iterable[PlacedLeaf]) -> str:
  """What one device holds, and what is not split, by reason.

  Arrays that a mesh axis does not divide are named; they may be a mistake.
  """
  rows = list(rows)
  total = sum(row.bytes_per_device for row in rows)
  lines = [f"{len(rows)} arrays, {total / _MIB:,.2f} MiB per device"]
  groups: dict[str, list[PlacedLeaf]] = collections.defaultdict(list)
  for row in rows:
    if row.is_refused:
      lines.append(f"  {row.path} {row.shape}: {row.reason}")
    elif row.reason:
      groups[row.reason].append(row)
  for reason, group in groups.items():
    whole = sum(row.bytes_per_device for row in group) / _MIB
    lines.append(f"  replicated, {reason}: {len(group)}, {whole:,.2f} MiB")
  return "\n".join(lines)


def _is_boxed(leaf) -> bool:
  return isinstance(leaf, nn.LogicallyPartitioned)


def _fit(
  leaf, mesh: Mesh | AbstractMesh, placement: Placement
) -> tuple[PartitionSpec, str, bool]:
  """(mesh axes, the reason if they are not the table's, is it the shape?)."""
  if not _is_boxed(leaf):
    return _whole(leaf), "its dimensions are not named", False
  array, rules = nn.unbox(leaf), partition_spec(*leaf.names)
  asked = PartitionSpec(*(_allowed(entry, placement) for entry in rules))
  if not any(rules):
    return asked, "no rule splits its dimensions", False
  if not any(asked):
    return asked, "the placement of its module", False
  if array.size * array.dtype.itemsize < placement.min_split_bytes:
    size = f"{placement.min_split_bytes:,}"
    return _whole(array), f"smaller than {size} bytes", False
  sizes = dict(mesh.shape)
  given = divisible_spec(asked, array.shape, sizes)
  refused = [
    f"{axis} = {sizes[axis]} does not divide {size}"
    for size, wish, got in zip(array.shape, asked, given, strict=True)
    for axis in axes_of(wish)[len(axes_of(got)) :]
  ]
  return given, ", ".join(refused), bool(refused)


def _allowed(entry, placement: Placement) -> tuple[str, ...] | None:
  return tuple(a for a in axes_of(entry) if a in placement.axes) or None


def _whole(array) -> PartitionSpec:
  return PartitionSpec(*(None,) * array.ndim)
