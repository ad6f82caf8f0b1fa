"""What `tools/convert_sd3_weights.py` wrote: modules and their weights."""

import dataclasses
import functools
import pathlib
from collections.abc import Iterable
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ddit_jax.checkpoint.manifest import verify_manifest
from ddit_jax.conversion.checkpoint_record import CheckpointRecord, read_record
from ddit_jax.data.pretrained_tokenizers import pretrained_tokenizer
from ddit_jax.data.tokenizer import Tokenizer
from ddit_jax.encoders.t5 import t5_encoder
from ddit_jax.encoders.vae import autoencoder
from ddit_jax.input_error import InputError
from ddit_jax.models.pure_module import PureModule, Variables

# "sharded" by the rule table, like the network; "replicated" costs memory on
# every device and saves the gathering at every step.
PLACEMENTS = ("sharded", "replicated")
# What a D-DiT reads its inputs with.
ENCODER_PARTS = ("text_encoder", "vae")


@dataclasses.dataclass(frozen=True)
class ConvertedWeights:
  """A converted folder whose hashes were verified.

  Attributes:
    folder: where it lies.
    record: its configurations.
  """

  folder: pathlib.Path
  record: CheckpointRecord

  @staticmethod
  def is_at(path: str | pathlib.Path) -> bool:
    """True if the folder looks like converted weights."""
    return (pathlib.Path(path) / "network").is_dir()

  @classmethod
  def open(cls, path: str | pathlib.Path) -> "ConvertedWeights":
    """Verifies and reads a folder.

    Raises:
      ValueError: it is damaged or of another version.
    """
    folder = pathlib.Path(path)
    if not folder.is_dir():
      raise InputError(
        f"{path} does not exist: give a folder that "
        "tools/convert_sd3_weights.py wrote"
      )
    verify_manifest(folder)
    return cls(folder, read_record(folder))

  def check_has(self, parts: Iterable[str]) -> None:
    """Raises InputError unless all these parts were converted."""
    missing = [part for part in parts if not (self.folder / part).is_dir()]
    if missing:
      raise InputError(
        f"{self.folder} lacks {', '.join(missing)}: convert a source that has "
        "it"
      )

  @functools.cached_property
  def tokenizer(self) -> Tokenizer:
    """T5's, from the folder."""
    return pretrained_tokenizer("t5", self.folder / "tokenizer")

  def encoder(self, name: str, dtype: str) -> PureModule:
    """T5 or the autoencoder, computing and kept in `dtype`."""
    config = self.record.configs[name]
    dtypes = {"dtype": dtype, "parameter_dtype": dtype}
    if name == "vae":
      return autoencoder(config, **dtypes)
    # It costs nothing but where the mask's row is trained, and there saves
    # what all of T5's blocks would keep for the way back.
    return t5_encoder(config, has_remat=True, **dtypes)

  def restore(
    self, name: str, module: PureModule, mesh: Mesh, placement: str = "sharded"
  ) -> Variables:
    """A part's weights straight onto the mesh, cast to the module's dtype."""
    layout = encoder_shardings(module, mesh, placement)
    wanted = jax.tree.map(
      lambda leaf, where: jax.ShapeDtypeStruct(
        leaf.shape, leaf.dtype, sharding=where
      ),
      module.abstract_variables(),
      layout,
    )
    return {
      kind: restore_item(self.folder / name / kind, tree)
      for kind, tree in wanted.items()
    }


def encoder_shardings(
  module: PureModule, mesh: Mesh, placement: str
) -> Variables:
  """Where a frozen part lies, by one of `PLACEMENTS`."""
  layout = module.shardings(mesh)
  if placement == "sharded":
    return layout
  everywhere = NamedSharding(mesh, PartitionSpec())
  return jax.tree.map(lambda _: everywhere, layout)


def restore_item(folder: pathlib.Path, wanted: Any) -> Any:
  """An Orbax tree onto its shardings, cast to the dtypes asked for.

  Stored arrays that are not asked for stay where they are.

  Raises:
    InputError: an array that is asked for is not there.
  """
  args = ocp.args.PyTreeRestore(
    wanted,
    restore_args=ocp.checkpoint_utils.construct_restore_args(wanted),
    partial_restore=True,
  )
  with ocp.PyTreeCheckpointer() as checkpointer:
    restored = checkpointer.restore(folder.absolute(), args=args)
  left = [x for x in jax.tree.leaves(restored) if not isinstance(x, jax.Array)]
  if left:
    raise InputError(f"{folder} lacks {len(left)} arrays: convert again")
  return restored
