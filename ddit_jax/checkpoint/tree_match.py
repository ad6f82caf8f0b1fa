"""Does a stored tree of arrays match the requested one?

A leaf's name is its keys joined by dots, e.g. "blocks.3.mlp.kernel": the name
under which Orbax stores it.
"""

import math
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import NamedSharding, PartitionSpec

from ddit_jax.checkpoint.manifest import CheckpointError
from ddit_jax.errors import InputError, first_few

_NAMED_DIFFERENCES = 5

# name -> (shape, dtype)
Shapes = dict[str, tuple[tuple[int, ...], np.dtype]]


def check_savable(item: str, tree: Any) -> None:
  """Raises if Orbax cannot store `tree` correctly.

  Raises:
    ValueError: no leaves; a leaf that is not an array, is empty, or is a typed
      PRNG key; two leaves whose dotted names are equal.
  """
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  if not leaves:
    raise ValueError(f"item {item!r} holds no arrays: leave it out")
  seen = set()
  for path, leaf in leaves:
    name = _name(path)
    _check_savable_leaf(f"{item}:{name}", leaf)
    if name in seen:
      # Orbax would write both leaves to the same path.
      raise ValueError(
        f"item {item!r} has two leaves called {name!r}: rename the key that "
        "contains a dot"
      )
    seen.add(name)


def check_finite(where: object, tree: Any) -> None:
  """Raises if a restored array holds NaN or an infinity.

  One jitted call looks at all arrays where they are.

  Args:
    where: what was restored, for the message.
    tree: `jax.Array` leaves.

  Raises:
    InputError: names the first arrays that do.
  """
  floats = {
    _name(path): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    if jnp.issubdtype(leaf.dtype, jnp.inexact)
  }
  if not floats:
    return
  place = next(iter(floats.values())).sharding
  if isinstance(place, NamedSharding):
    # Every process can read the result.
    place = NamedSharding(place.mesh, PartitionSpec())
  look = jax.jit(
    lambda arrays: jnp.stack([jnp.isfinite(x).all() for x in arrays]),
    out_shardings=place,
  )
  are_finite = np.asarray(look(list(floats.values())))
  bad = [name for name, ok in zip(floats, are_finite, strict=True) if not ok]
  if bad:
    raise InputError(
      f"{where} holds values that are not finite in {first_few(bad)}: use "
      "another checkpoint"
    )


def check_restorable(item: str, tree: Any) -> None:
  """Raises unless every leaf of `tree` has a shape, dtype and sharding.

  Raises:
    ValueError: no leaves, or a leaf that is not a `jax.ShapeDtypeStruct` with
      a sharding.
  """
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  if not leaves:
    raise ValueError(f"item {item!r} requests no arrays: omit it")
  for path, leaf in leaves:
    is_abstract = isinstance(leaf, jax.ShapeDtypeStruct)
    if not is_abstract or leaf.sharding is None:
      seen = "no sharding" if is_abstract else f"type {type(leaf).__name__}"
      raise ValueError(
        f"abstract leaf {item}:{_name(path)} has {seen}: pass "
        "jax.ShapeDtypeStruct(shape, dtype, sharding=...)"
      )


def tree_shapes(tree: Any) -> Shapes:
  """Name, shape and dtype of every leaf of a (possibly abstract) tree."""
  return {
    _name(path): (tuple(leaf.shape), np.dtype(leaf.dtype))
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def stored_shapes(item_folder: pathlib.Path) -> Shapes:
  """The same for a stored item, without loading any array."""
  metadata = ocp.PyTreeCheckpointHandler().metadata(item_folder)
  return tree_shapes(metadata.tree)


def _differences(stored: Shapes, wanted: Shapes) -> list[str]:
  """One phrase for each leaf that is missing, unexpected, or different.

  Args:
    stored: names, shapes and dtypes in the checkpoint.
    wanted: the requested tree.

  Returns:
    Phrases with the leaf's name; empty when the two agree.
  """
  found = [f"{n} is missing" for n in sorted(wanted.keys() - stored.keys())]
  found += [f"{n} is unexpected" for n in sorted(stored.keys() - wanted.keys())]
  for name in sorted(wanted.keys() & stored.keys()):
    (old_shape, old_dtype), (shape, dtype) = stored[name], wanted[name]
    if old_shape != shape:
      found.append(f"{name} has shape {old_shape}, the model {shape}")
    elif old_dtype != dtype:
      found.append(f"{name} has dtype {old_dtype}, the model {dtype}")
  return found


def check_fit(step_folder: pathlib.Path, item: str, tree: Any) -> None:
  """Raises unless a step's stored item is exactly the requested tree.

  Args:
    step_folder: a finished step.
    item: name of the item, e.g. "params".
    tree: the abstract tree that is to be restored.

  Raises:
    CheckpointError: the item is missing, or leaves differ (up to five named).
  """
  if not (step_folder / item / "_METADATA").is_file():
    have = sorted(path.parent.name for path in step_folder.glob("*/_METADATA"))
    raise CheckpointError(f"{step_folder} has no item {item!r}; it has {have}")
  found = _differences(stored_shapes(step_folder / item), tree_shapes(tree))
  if found:
    more = len(found) - _NAMED_DIFFERENCES
    tail = f"; and {more} more" if more > 0 else ""
    raise CheckpointError(
      f"{step_folder} is a checkpoint of another model; item {item!r}: "
      f"{'; '.join(found[:_NAMED_DIFFERENCES])}{tail}"
    )


def restore_args(tree: Any) -> ocp.args.PyTreeRestore:
  """Orbax's restore arguments for a checked tree and its shardings."""
  return ocp.args.PyTreeRestore(
    tree,
    restore_args=ocp.checkpoint_utils.construct_restore_args(tree),
  )


def check_restored(item: str, tree: Any, wanted: Any) -> None:
  """Raises unless all leaves are arrays of the requested kind and sharding.

  For some unknown names Orbax returns the abstract leaf itself, which must not
  reach training.

  Raises:
    CheckpointError: names the first such leaf.
  """
  pairs = zip(
    jax.tree_util.tree_leaves_with_path(tree),
    jax.tree_util.tree_leaves_with_path(wanted),
    strict=True,
  )
  for (path, leaf), (_, asked) in pairs:
    is_right = (
      isinstance(leaf, jax.Array)
      and leaf.shape == asked.shape
      and leaf.dtype == asked.dtype
      and leaf.sharding == asked.sharding
    )
    if not is_right:
      raise CheckpointError(
        f"leaf {item}:{_name(path)} was not restored: wanted {asked}, "
        f"got {type(leaf).__name__}"
      )


def _name(path: tuple[Any, ...]) -> str:
  return jax.tree_util.keystr(path, simple=True, separator=".")


def _check_savable_leaf(name: str, leaf: Any) -> None:
  if not isinstance(leaf, jax.Array | np.ndarray):
    raise ValueError(
      f"leaf {name} is a {type(leaf).__name__}: items hold arrays only; "
      "put text and numbers into config or data_position"
    )
  if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
    raise ValueError(
      f"leaf {name} is a typed PRNG key: save jax.random.key_data(key)"
    )
  if math.prod(leaf.shape) == 0:
    raise ValueError(f"leaf {name} is empty (shape {leaf.shape}): leave it out")
