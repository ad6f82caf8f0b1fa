"""A model's programs, batch by batch over a mesh."""

import abc
import copy
import functools
from typing import Any, Self

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from ddit_jax.data.prefetch import rows_of_process, to_mesh
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

  def with_variables(self, variables: dict[str, Variables]) -> Self:
    """The same programs, compiled once, with other weights."""
    other = copy.copy(self)
    other._variables = variables
    return other

  @abc.abstractmethod
  def _jit(self) -> None:
    """Sets the jitted programs, which compile when they are called."""


def in_batches(function, rows: Any, *, mesh: Mesh, batch_size: int) -> Any:
  """Runs `function` on equal batches of rows; the last one is padded.

  With several processes all of them call it with the same rows. Each puts those
  of its devices on the mesh, and all get the results of all rows.

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
  mine = np.array(rows_of_process(mesh, size))
  is_shown = len(starts) > 1 and jax.process_index() == 0
  with (
    jax.set_mesh(mesh),
    progress_bar(len(starts), unit="batch", is_shown=is_shown) as bar,
  ):
    for start in starts:
      # Past the end the last row repeats; its results are cut.
      places = np.minimum(start + mine, num_rows - 1)
      take = functools.partial(np.take, indices=places, axis=0)
      batch = to_mesh(jax.tree.map(take, rows), mesh)
      # One batch at a time lies on the devices, and the bar shows what is done.
      results.append(to_host(function(batch)))
      bar.update()
  joined = jax.tree.map(lambda *parts: np.concatenate(parts), *results)
  return jax.tree.map(lambda array: array[:num_rows], joined)


def to_host(tree: Any) -> Any:
  """A tree's arrays on the mesh as numpy arrays of all rows."""

  def gather(array):
    is_far = isinstance(array, jax.Array) and not array.is_fully_addressable
    if not is_far:
      return array
    return multihost_utils.process_allgather(array, tiled=True)

  return jax.device_get(jax.tree.map(gather, tree))
