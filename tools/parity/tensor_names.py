"""Trees of our arrays as the checkpoint's tensors: their names and shapes."""

import jax
import numpy as np

from ddit_jax.conversion.component_plan import ComponentPlan


def their_tensors(plan: ComponentPlan, params) -> dict[str, np.ndarray]:
  """Parameters, or a tree like them (gradients), by the checkpoint's names.

  Args:
    plan: how the converter made our parameters of the checkpoint.
    params: a tree of the parameters' shapes.
  """
  leaves = jax.tree_util.tree_leaves_with_path({"params": params})
  ours = {
    jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
    for path, leaf in leaves
  }
  found = {}
  for slab in plan.slabs:
    if slab.array in ours:
      block = ours[slab.array]
      block = block if slab.block is None else block[slab.block]
      for piece in slab.pieces:
        found[piece.name] = piece.to_theirs(block[piece.index])
  return found
