"""Where a run's network starts: its arrays taken from somebody's weights."""

import dataclasses
import pathlib
from typing import Any

import flax
import jax

from ddit_jax.checkpoint.manifest import verify_manifest
from ddit_jax.checkpoint.store import CheckpointStore
from ddit_jax.checkpoint.tree_match import Shapes, stored_shapes, tree_shapes
from ddit_jax.experiment.converted import ConvertedWeights, restore_item
from ddit_jax.experiment.run_folder import checkpoints_in
from ddit_jax.input_error import InputError

_NAMED = 5


@dataclasses.dataclass(frozen=True)
class StartingWeights:
  """Stored parameters, compared with those a network asks for.

  Attributes:
    folder: the Orbax item that holds them.
    stored: what it holds, by dotted name.
    wanted: what the network asks for.
  """

  folder: pathlib.Path
  stored: Shapes
  wanted: Shapes

  @classmethod
  def open(cls, path: str, weights: str, params: Any) -> "StartingWeights":
    """Finds and verifies stored parameters.

    Args:
      path: converted weights, a workdir (its newest checkpoint), or one
        checkpoint, WORKDIR/checkpoints/STEP.
      weights: "ema" or "params" of a run.
      params: the abstract parameters of the network.

    Raises:
      InputError: nothing there, damage, or arrays of other shapes.
    """
    folder = _item_folder(path, weights)
    found = cls(folder, stored_shapes(folder), tree_shapes(params))
    found.check_shapes()
    return found

  @property
  def taken(self) -> list[str]:
    """Names that are both stored and asked for."""
    return sorted(self.stored.keys() & self.wanted.keys())

  @property
  def fresh(self) -> list[str]:
    """Names asked for that are not stored; they stay as initialised."""
    return sorted(self.wanted.keys() - self.stored.keys())

  @property
  def left_over(self) -> list[str]:
    """Names stored that nobody asks for."""
    return sorted(self.stored.keys() - self.wanted.keys())

  @property
  def num_cast(self) -> int:
    """Arrays taken whose dtype changes."""
    return sum(self.stored[n][1] != self.wanted[n][1] for n in self.taken)

  def check_shapes(self) -> None:
    """Raises InputError if nothing fits or a name has another shape."""
    wrong = [
      f"{name} is {self.stored[name][0]} there and {self.wanted[name][0]} here"
      for name in self.taken
      if self.stored[name][0] != self.wanted[name][0]
    ]
    if wrong or not self.taken:
      seen = "; ".join(wrong[:_NAMED]) or "not one name is the same"
      raise InputError(
        f"init_from: {self.folder} holds another network's parameters "
        f"({seen}): set model.size, the tokenizer and text_length as they "
        "were there"
      )

  def report(self) -> str:
    """What is taken, fresh and left over, the latter two by name."""
    lines = [
      f"starting from {self.folder}: {len(self.taken)} arrays taken "
      f"({self.num_cast} cast), {len(self.fresh)} fresh, "
      f"{len(self.left_over)} left over"
    ]
    lines += [f"fresh: {n} {self.wanted[n][0]}" for n in self.fresh]
    lines += [f"left over: {n} {self.stored[n][0]}" for n in self.left_over]
    return "\n".join(lines)

  def load(self, params: Any, shardings: Any) -> Any:
    """`params` with every taken array in place of the initialised one.

    Args:
      params: initialised parameters; taken ones may be donated.
      shardings: their layout.
    """
    flat = flax.traverse_util.flatten_dict(params, sep=".")
    places = flax.traverse_util.flatten_dict(shardings, sep=".")
    wanted = {
      name: jax.ShapeDtypeStruct(
        flat[name].shape, flat[name].dtype, sharding=places[name]
      )
      for name in self.taken
    }
    tree = flax.traverse_util.unflatten_dict(wanted, sep=".")
    restored = restore_item(self.folder, tree)
    flat |= flax.traverse_util.flatten_dict(restored, sep=".")
    return flax.traverse_util.unflatten_dict(flat, sep=".")


def _item_folder(path: str, weights: str) -> pathlib.Path:
  if ConvertedWeights.is_at(path):
    return ConvertedWeights.open(path).folder / "network" / "params"
  folder = pathlib.Path(path)
  if not (folder.name.isdigit() and folder.parent.name == "checkpoints"):
    folder = _newest_step(path)
  item = folder / weights
  if not item.is_dir():
    raise InputError(
      f"init_from: {folder} has no {weights}: give a workdir, one of its "
      "checkpoints, or converted weights"
    )
  verify_manifest(folder)
  return item


def _newest_step(path: str) -> pathlib.Path:
  folder = checkpoints_in(path)
  if not folder.is_dir():
    raise InputError(
      f"init_from: {path} is neither a workdir with checkpoints nor converted "
      "weights"
    )
  with CheckpointStore(folder, read_only=True) as store:
    step = store.latest_step()
  if step is None:
    raise InputError(f"init_from: {path} has no finished checkpoint")
  return folder / str(step)
