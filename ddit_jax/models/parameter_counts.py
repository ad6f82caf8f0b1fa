"""How many parameters each part of a network has, counted without arrays."""

import collections
import dataclasses
import math
from collections.abc import Mapping

import jax

from ddit_jax.models.pure_module import Variables

# The MM-DiT's blocks hold one stream for each modality.
_STREAMS = ("image", "text")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParameterCounts:
  """The size of one network.

  Attributes:
    parts: name of a part ("text stream", "time embedding", ...) -> how many
      parameters it has, the largest first.
    stored: numbers that are kept with the parameters and never trained (the
      MM-DiT's position table).
  """

  parts: Mapping[str, int]
  stored: int

  @property
  def total(self) -> int:
    """Parameters of all parts."""
    return sum(self.parts.values())


def parameter_counts(variables: Variables) -> ParameterCounts:
  """Counts by part: the MM-DiT's two streams, else the modules on top.

  Args:
    variables: arrays, or shapes as `PureModule.abstract_variables` gives them.
  """
  parts: collections.Counter[str] = collections.Counter()
  for path, leaf in jax.tree_util.tree_leaves_with_path(variables["params"]):
    parts[_part(tuple(entry.key for entry in path))] += math.prod(leaf.shape)
  stored = jax.tree.leaves(variables.get("constants", {}))
  return ParameterCounts(
    parts=dict(parts.most_common()),
    stored=sum(math.prod(leaf.shape) for leaf in stored),
  )


def counts_table(counts: Mapping[str, ParameterCounts]) -> str:
  """The counts of several networks as lines of text.

  Args:
    counts: what to call each network ("network", "text_encoder") -> counts.
  """
  rows = []
  for name, count in counts.items():
    rows.append((name, count.total))
    rows += [(f"  {part}", size) for part, size in count.parts.items()]
    if count.stored:
      rows.append(("  stored, not trained", count.stored))
  names = max(len(name) for name, _ in rows)
  sizes = max(len(f"{size:,}") for _, size in rows)
  return "\n".join(f"{name:<{names}}  {size:>{sizes},}" for name, size in rows)


def _part(path: tuple[str, ...]) -> str:
  if len(path) > 1 and path[1] in _STREAMS:
    return f"{path[1]} stream"
  return path[0].replace("_", " ")
