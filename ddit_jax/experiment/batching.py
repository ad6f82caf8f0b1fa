"""Many rows through a function of equal batches on a mesh."""

import functools

import jax
import numpy as np
from jax.sharding import Mesh

from ddit_jax.data.device_feed import to_mesh
from ddit_jax.sharding.mesh import batch_ways


def in_batches(function, rows, root: jax.Array, *, mesh: Mesh, batch_size: int):
  """Runs `function` on equal batches of rows; the last one is padded.

  Args:
    function: (rows of a batch on the mesh, key) -> arrays of as many rows.
    rows: a tree of numpy arrays [rows, ...].
    root: each batch's key is folded from it.
    mesh: splits a batch.
    batch_size: rows at once, rounded up to a multiple of the mesh's ways.

  Returns:
    The function's tree, as numpy arrays of all rows.
  """
  num_rows = len(jax.tree.leaves(rows)[0])
  ways = batch_ways(mesh)
  size = -(-min(batch_size, num_rows) // ways) * ways
  results = []
  with jax.set_mesh(mesh):
    for index, start in enumerate(range(0, num_rows, size)):
      chunk = jax.tree.map(
        functools.partial(_padded_slice, start=start, size=size), rows
      )
      key = jax.random.fold_in(root, index)
      results.append(function(to_mesh(chunk, mesh), key))
  joined = jax.tree.map(lambda *parts: np.concatenate(parts), *results)
  return jax.tree.map(lambda array: array[:num_rows], joined)


def _padded_slice(rows: np.ndarray, *, start: int, size: int) -> np.ndarray:
  """`size` rows; past the end the last is repeated (its results are cut)."""
  rows = rows[start : start + size]
  missing = size - len(rows)
  return np.concatenate([rows, np.repeat(rows[-1:], missing, axis=0)])
