"""The checker of annotations that jaxtyping's import hook puts in place."""

import beartype
import flax.struct

FOLDERS = (
  "batch",
  "diffusion",
  "encoders",
  "losses",
  "models",
  "prng",
  "sampling",
  "sharding",
)

# PEP 484: an int is a float too, unlike beartype's default.
check = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))


def leave_trees_unchecked() -> None:
  """Excludes the fields of pytrees, in which shardings may replace arrays.

  JAX calls the constructor of a dataclass whenever it maps over a tree.
  """
  dataclass = flax.struct.dataclass

  def unchecked(cls):
    cls = dataclass(cls)
    cls.__no_type_check__ = True
    return cls

  flax.struct.dataclass = unchecked
