"""A model's programs, batch by batch over a mesh."""

import abc
import functools
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from ddit_jax.data.prefetch import to_mesh
from ddit_jax.experiment.model import DualModel
from ddit_jax.models.module import Variables
from ddit_jax.monitor.progress import progress_bar
from ddit_jax.sharding.mesh import batch_ways


class ModelOnMesh(abc.ABC):
  """What the jitted programs of one model share.

  Args:
    model: the network with its encoders.
    variables: weights of the model's parts, on `mesh`.
    mesh: the devices; it splits a batch.
  """

  def __init__(
    self, model: DualModel, variables: dict[str, Variables], mesh: Mesh
  ):
    self._model, self._variables, self._mesh = model, variables, mesh
    self._jit()

  @abc.abstractmethod
  def _jit(self) -> None:
    """Sets the jitted programs, which compile when they are called."""


def in_batches(function, rows: Any, *, mesh: Mesh, batch_size: int) -> Any:
  """Runs `function` on equal batches of rows; the last one is padded.

  Args:
    function: rows of a batch on the mesh -> arrays of equally many rows.
    rows: a tree of numpy arrays [rows, ...].
    mesh: splits a batch.
    batch_size: rows at once, rounded up to a multiple of the mesh's ways.

  Returns:
    The function's tree, as numpy arrays of all rows.
  """
  num_rows = len(jax.tree.leaves(rows)[0])
  ways = batch_ways(mesh)
  size = -(-min(batch_size, num_rows) // ways) * ways
  starts, results = range(0, num_rows, size), []
  with (
    jax.set_mesh(mesh),
    progress_bar(len(starts), unit="batch", is_shown=len(starts) > 1) as bar,
  ):
    for start in starts:
      batch = jax.tree.map(
        functools.partial(_padded_slice, start=start, size=size), rows
      )
      # One batch at a time lies on the devices, and the bar shows what is done.
      results.append(jax.device_get(function(to_mesh(batch, mesh))))
      bar.update()
  joined = jax.tree.map(lambda *parts: np.concatenate(parts), *results)
  return jax.tree.map(lambda array: array[:num_rows], joined)


def _padded_slice(rows: np.ndarray, *, start: int, size: int) -> np.ndarray:
  """`size` rows; past the end the last one repeats (its results are cut)."""
  rows = rows[start : start + size]
  missing = size - len(rows)
  return np.concatenate([rows, np.repeat(rows[-1:], missing, axis=0)])
