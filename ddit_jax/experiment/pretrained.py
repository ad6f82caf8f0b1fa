"""What `tools/convert_sd3_weights.py` wrote: modules and their weights."""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Iterable
from typing import Any

import flax
import jax
import orbax.checkpoint as ocp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ddit_jax.checkpoint.manifest import (
  MANIFEST_NAME,
  contents_digest,
  verify_manifest,
)
from ddit_jax.checkpoint.store import CheckpointStore, checkpoints_in
from ddit_jax.checkpoint.tree_match import Shapes, stored_shapes, tree_shapes
from ddit_jax.config.dry_run import TOY_WEIGHTS
from ddit_jax.conversion.checkpoint_record import CheckpointRecord, read_record
from ddit_jax.data.tokenizers import (
  Tokenizer,
  pretrained_tokenizer,
  word_tokenizer,
)
from ddit_jax.digits import grammar
from ddit_jax.encoders.t5 import T5Config, t5_encoder
from ddit_jax.encoders.vae import AutoencoderConfig, autoencoder
from ddit_jax.errors import InputError
from ddit_jax.lora.lora import LoraNetwork
from ddit_jax.models.config import size
from ddit_jax.models.module import PureModule, Variables
from ddit_jax.sharding.rules import with_shardings

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
    wanted = with_shardings(
      module.abstract_variables(), encoder_shardings(module, mesh, placement)
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
      name: with_shardings(flat[name], places[name]) for name in self.taken
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


# Beside the tokenizer's files in a checkpoint of adapters.
BASE_FILE = "lora_base.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrozenBase:
  """Verified parameters that stay as they are below a `LoraNetwork`.

  Attributes:
    network: the frozen network and its adapters.
    weights: where the frozen parameters lie.
    digest: hash of these files.
  """

  network: LoraNetwork
  weights: StartingWeights
  digest: str

  @classmethod
  def open(
    cls, init_from: str, init_weights: str, network: LoraNetwork
  ) -> "FrozenBase":
    """Finds and verifies the parameters that `init_from` names.

    Raises:
      InputError: nothing there, damage, other shapes, or arrays missing.
    """
    wanted = network.network.abstract_variables()["params"]
    weights = StartingWeights.open(init_from, init_weights, wanted)
    if weights.fresh:
      raise InputError(
        f"init_from: {weights.folder} lacks {weights.fresh[0]}"
        f"{f' and {len(weights.fresh) - 1} more' if weights.fresh[1:] else ''}:"
        " adapters need a whole network below them; set model as it was there"
      )
    folder = next(
      path
      for path in weights.folder.parents
      if (path / MANIFEST_NAME).is_file()
    )
    below = weights.folder.relative_to(folder).as_posix()
    return cls(
      network=network,
      weights=weights,
      digest=contents_digest(folder, below),
    )

  def restore(self, mesh: Mesh) -> Variables:
    """{"base": the parameters}, straight onto the mesh."""
    wanted = with_shardings(
      self.network.network.abstract_variables()["params"],
      self.network.network.shardings(mesh)["params"],
    )
    return {"base": restore_item(self.weights.folder, wanted)}

  def merged(self, variables: Variables, mesh: Mesh) -> Variables:
    """Variables of the network alone, with trained adapters merged.

    Args:
      variables: {"params": adapters, "constants": ...}.
      mesh: the devices they lie on.
    """
    merge = jax.jit(
      self.network.merged,
      out_shardings=self.network.network.shardings(mesh),
    )
    return merge({**variables, **self.restore(mesh)})

  def files(self) -> dict[str, bytes]:
    """What a checkpoint of the adapters says about their base."""
    body = {"folder": str(self.weights.folder), "digest": self.digest}
    return {BASE_FILE: json.dumps(body, indent=2).encode()}

  def check_same(self, files: dict[str, bytes]) -> None:
    """Raises InputError unless a checkpoint's adapters belong to this base.

    Args:
      files: those saved with the checkpoint.
    """
    saved = json.loads(files[BASE_FILE])
    if saved["digest"] != self.digest:
      raise InputError(
        f"init_from: {self.weights.folder} holds other parameters than "
        f"{saved['folder']}, on which the adapters were trained: name those "
        "(of a run that went on, the checkpoint: WORKDIR/checkpoints/STEP)"
      )

  def report(self) -> str:
    """What is frozen, and what of it is left over."""
    count = f"{self.network.network.num_parameters():,}"
    lines = [f"frozen: {count} parameters from {self.weights.folder}"]
    lines += [f"left over: {name}" for name in self.weights.left_over]
    return "\n".join(lines)


# More rows than the words of the digit world's captions.
_VOCAB_SIZE = 256


class ToyWeights(ConvertedWeights):
  """T5 and an autoencoder of toy size, the same random ones every time."""

  @classmethod
  def make(cls) -> "ToyWeights":
    """No file is read."""
    text_encoder = T5Config(
      depth=2,
      width=size("toy_sd3").context_dim,
      num_heads=2,
      head_dim=8,
      mlp_width=32,
      vocab_size=_VOCAB_SIZE,
    )
    vae = AutoencoderConfig(
      block_widths=(16, 16, 16), layers_per_block=1, num_groups=8
    )
    record = CheckpointRecord(
      target="ddit", configs={"text_encoder": text_encoder, "vae": vae}
    )
    return cls(pathlib.Path(TOY_WEIGHTS), record)

  def check_has(self, parts: Iterable[str]) -> None:
    """They have all that a D-DiT reads its inputs with."""
    if missing := set(parts) - self.record.configs.keys():
      raise ValueError(f"toy weights have no {', '.join(sorted(missing))}")

  @functools.cached_property
  def tokenizer(self) -> Tokenizer:
    """The digit world's words."""
    return word_tokenizer(grammar.words())

  def restore(
    self, name: str, module: PureModule, mesh: Mesh, placement: str = "sharded"
  ) -> Variables:
    """Random weights, created on the mesh."""
    layout = encoder_shardings(module, mesh, placement)
    key = jax.random.key(len(name))
    return jax.jit(module.init, out_shardings=layout)(key)
