"""Pretrained weights: frozen encoders, and parameters that a run starts from.

They come from `tools/convert_sd3_weights.py` or from an earlier run.
"""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Iterable
from typing import Any

import jax
import orbax.checkpoint as ocp
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ddit_jax.checkpoint.manifest import (
  MANIFEST_NAME,
  contents_digest,
  verify_manifest,
)
from ddit_jax.checkpoint.steps import verify_step
from ddit_jax.checkpoint.store import CheckpointStore, checkpoints_in
from ddit_jax.checkpoint.tree_match import (
  Shapes,
  check_finite,
  stored_shapes,
  tree_shapes,
)
from ddit_jax.conversion.record import CheckpointRecord, read_record
from ddit_jax.data.tokenizers import (
  Tokenizer,
  from_files,
  pretrained_tokenizer,
)
from ddit_jax.encoders.int8 import quantised_like
from ddit_jax.encoders.t5 import t5_encoder
from ddit_jax.encoders.vae import autoencoder
from ddit_jax.errors import InputError, first_few
from ddit_jax.experiment.token_rows import TokenRows
from ddit_jax.files import local_path
from ddit_jax.lora.lora import LoraNetwork
from ddit_jax.models.module import Network, PureModule, Variables
from ddit_jax.sharding.placement import Placement, with_shardings

# The frozen parts of a D-DiT.
ENCODER_PARTS = ("text_encoder", "vae")
# In a checkpoint: the parameters that the run started from and keeps.
_BASE_FILE = "lora_base.json"


@dataclasses.dataclass(frozen=True)
class PretrainedModel:
  """A folder of converted weights whose hashes were verified.

  Attributes:
    folder: one sub-folder per part.
    record: the configurations of the parts.
  """

  folder: pathlib.Path
  record: CheckpointRecord

  @staticmethod
  def is_at(path: str | pathlib.Path) -> bool:
    """True if the folder looks like converted weights."""
    return (local_path(path) / "network").is_dir()

  @classmethod
  def open(cls, path: str | pathlib.Path) -> "PretrainedModel":
    """Verifies and reads a folder.

    Raises:
      ValueError: it is damaged or of another version.
    """
    folder = local_path(path)
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

  def encoder(
    self,
    name: str,
    dtype: str,
    placement: Placement = Placement(),
    *,
    has_int8_kernels: bool = False,
  ) -> PureModule:
    """T5 or the autoencoder, computed and stored in `dtype`.

    Args:
      name: of `ENCODER_PARTS`.
      dtype: "float32" or "bfloat16".
      placement: how a mesh splits it.
      has_int8_kernels: True keeps T5's kernels as int8, see `encoders.int8`.
    """
    config = self.record.configs[name]
    dtypes = {"dtype": dtype, "parameter_dtype": dtype}
    if name == "vae":
      module = autoencoder(config, **dtypes)
    else:
      # Rematerialisation costs nothing unless the mask embedding is trained;
      # then it saves what T5's blocks would keep for the backward pass.
      module = t5_encoder(
        config, has_remat=True, has_int8_kernels=has_int8_kernels, **dtypes
      )
    return dataclasses.replace(module, placement=placement)

  def restore(self, name: str, module: PureModule, mesh: Mesh) -> Variables:
    """The weights of the part `name`, on the mesh in the module's dtype."""
    if getattr(module.module, "has_int8_kernels", False):
      return self._quantised(name, module, mesh)
    needed = with_shardings(module.abstract_variables(), module.shardings(mesh))
    return {
      kind: _restore_item(self.folder / name / kind, tree)
      for kind, tree in needed.items()
    }

  def _quantised(self, name: str, module: PureModule, mesh: Mesh) -> Variables:
    """Like `restore`; for a moment the float kernels are on the mesh, too."""
    floats = dataclasses.replace(
      module, module=module.module.clone(has_int8_kernels=False)
    )
    quantise = jax.jit(
      functools.partial(quantised_like, abstract=module.abstract_variables()),
      out_shardings=module.shardings(mesh),
    )
    return quantise(self.restore(name, floats, mesh))


def _restore_item(folder: pathlib.Path, needed: Any) -> Any:
  """Loads the needed arrays of an Orbax item, cast to the needed dtypes.

  Raises:
    InputError: a needed array is missing or not finite.
  """
  args = ocp.args.PyTreeRestore(
    needed,
    restore_args=ocp.checkpoint_utils.construct_restore_args(needed),
    partial_restore=True,
  )
  with ocp.PyTreeCheckpointer() as checkpointer:
    restored = checkpointer.restore(folder, args=args)
  leaves = jax.tree.leaves(restored)
  if missing := sum(not isinstance(x, jax.Array) for x in leaves):
    raise InputError(f"{folder} lacks {missing} arrays: convert again")
  check_finite(folder, restored)
  return restored


@dataclasses.dataclass(frozen=True)
class PretrainedParams:
  """Stored parameters, matched by name with those that a network needs.

  Attributes:
    folder: the Orbax item that holds them.
    stored: name -> shape and dtype of each stored array.
    needed: the same of the network's parameters.
    token_rows: where the rows of tokens are; None if they are the same.
    key: the config key that names them, for messages.
  """

  folder: pathlib.Path
  stored: Shapes
  needed: Shapes
  token_rows: TokenRows | None = None
  key: str = "init_from"

  @classmethod
  def open(
    cls,
    path: str,
    weights: str,
    params: Any,
    *,
    is_complete: bool = False,
    token_rows: TokenRows | None = None,
  ) -> "PretrainedParams":
    """Finds and verifies stored parameters, as `init_from` names them.

    Args:
      path: converted weights, a workdir (its newest checkpoint), or one
        checkpoint, WORKDIR/checkpoints/STEP.
      weights: "ema" or "params" of a run.
      params: the abstract parameters of the network.
      is_complete: True rejects parameters that would be newly initialised.
      token_rows: see the class.

    Raises:
      InputError: nothing there, damage, other shapes, or arrays missing.
    """
    folder = item_folder(path, weights)
    found = cls(folder, stored_shapes(folder), tree_shapes(params), token_rows)
    found.check_shapes()
    if is_complete:
      found.check_complete("adapters need a complete network below them")
    return found

  @classmethod
  def of_run(
    cls,
    path: str,
    weights: str,
    network: Network,
    store: CheckpointStore,
    tokenizer: Tokenizer,
    *,
    is_kept: bool,
  ) -> "PretrainedParams | None":
    """Opens the parameters of `init_from` if this start needs them.

    A run of adapters needs its frozen network at every start, and so does one
    that keeps a reference; other runs only at their first.

    Args:
      path: see `open`; "" for a run that starts from random weights.
      weights: see `open`.
      network: the trained one.
      store: the run's checkpoints.
      tokenizer: of the run.
      is_kept: True if the run keeps them beside what it trains.

    Raises:
      InputError: see `open`; or the run kept other parameters.
    """
    start, has_adapters = store.latest_step(), isinstance(network, LoraNetwork)
    if not path or not (is_kept or start is None):
      return None
    base = network.network if has_adapters else network
    token_rows, stored = None, stored_tokenizer(path, weights)
    if stored is not None:
      token_rows = TokenRows.matched(base.token_axes(), stored, tokenizer)
    pretrained = cls.open(
      path,
      weights,
      base.abstract_variables()["params"],
      is_complete=has_adapters,
      token_rows=token_rows,
    )
    if is_kept and start is not None:
      pretrained.check_same_base(store.files(start))
    return pretrained

  @property
  def taken(self) -> list[str]:
    """Names that are stored and needed."""
    return sorted(self.stored.keys() & self.needed.keys())

  @property
  def newly_initialised(self) -> list[str]:
    """Names that are needed and not stored."""
    return sorted(self.needed.keys() - self.stored.keys())

  @property
  def unused(self) -> list[str]:
    """Names that are stored and not needed."""
    return sorted(self.stored.keys() - self.needed.keys())

  def _shape_there(self, name: str) -> tuple[int, ...]:
    """The stored shape of a parameter that the network needs."""
    shape = self.needed[name][0]
    if self.token_rows is None:
      return shape
    return self.token_rows.stored_shape(name, shape)

  def check_complete(self, reason: str) -> None:
    """Raises InputError if parameters would be newly initialised."""
    if self.newly_initialised:
      raise InputError(
        f"{self.key}: {self.folder} lacks "
        f"{first_few(self.newly_initialised, limit=1)}: {reason}; set model as "
        "it was there"
      )

  def check_shapes(self) -> None:
    """Raises InputError if stored arrays have other shapes, or none fits."""
    wrong = [
      f"{name} is {self.stored[name][0]} there and {self.needed[name][0]} here"
      for name in self.taken
      if self.stored[name][0] != self._shape_there(name)
    ]
    if wrong or not self.taken:
      seen = first_few(wrong) or "no name is the same"
      raise InputError(
        f"{self.key}: {self.folder} holds another network's parameters "
        f"({seen}): set model.size, the tokenizer and text_length as they "
        "were there"
      )

  def report(self) -> str:
    """Lists arrays that are loaded, newly initialised or unused."""
    num_cast = sum(self.stored[n][1] != self.needed[n][1] for n in self.taken)
    new, unused = self.newly_initialised, self.unused
    lines = [
      f"pretrained weights from {self.folder}: {len(self.taken)} arrays taken "
      f"({num_cast} cast), {len(new)} newly initialised, {len(unused)} unused"
    ]
    lines += [f"newly initialised: {n} {self.needed[n][0]}" for n in new]
    lines += [f"unused: {n} {self.stored[n][0]}" for n in unused]
    if self.token_rows is not None:
      lines += self.token_rows.report()
    return "\n".join(lines)

  def load(self, params: Any, shardings: Any) -> Any:
    """`params` with the stored arrays in place of those of the same name.

    Args:
      params: initialised, or abstract if nothing is newly initialised.
      shardings: of all of them.
    """
    flat = flatten_dict(params, sep=".")
    places = flatten_dict(shardings, sep=".")
    restored = self._restored(flat, places)
    if self.token_rows is not None:
      for name in self.token_rows.axes.keys() & restored.keys():
        place = functools.partial(self.token_rows.placed, name)
        restored[name] = jax.jit(place, out_shardings=places[name])(
          restored[name], flat[name]
        )
    return unflatten_dict(flat | restored, sep=".")

  def _restored(self, flat, places) -> dict[str, jax.Array]:
    """The stored arrays by name; rows of tokens are as they are there."""
    needed = {n: with_shardings(flat[n], places[n]) for n in self.taken}
    for name, array in needed.items():
      shape = self._shape_there(name)
      if shape != array.shape:
        # The mesh may not divide the stored rows.
        place = NamedSharding(places[name].mesh, PartitionSpec())
        needed[name] = jax.ShapeDtypeStruct(shape, array.dtype, sharding=place)
    restored = _restore_item(self.folder, unflatten_dict(needed, sep="."))
    return flatten_dict(restored, sep=".")

  @functools.cached_property
  def digest(self) -> str:
    """Hash of the stored parameters, independent of their folder."""
    root = next(
      path for path in self.folder.parents if (path / MANIFEST_NAME).is_file()
    )
    return contents_digest(root, self.folder.relative_to(root).as_posix())

  def base_file(self) -> dict[str, bytes]:
    """A checkpoint's metadata about the frozen parameters."""
    body = {"folder": str(self.folder), "digest": self.digest}
    return {_BASE_FILE: json.dumps(body, indent=2).encode()}

  def check_same_base(self, files: dict[str, bytes]) -> None:
    """Raises InputError unless a run kept these parameters.

    Args:
      files: those saved with its checkpoint.
    """
    saved = json.loads(files[_BASE_FILE])
    if saved["digest"] != self.digest:
      raise InputError(
        f"{self.key}: {self.folder} holds other parameters than "
        f"{saved['folder']}, from which the run started: name those "
        "(of a run that went on, the checkpoint: WORKDIR/checkpoints/STEP)"
      )


def stored_tokenizer(path: str, weights: str) -> Tokenizer | None:
  """The tokenizer of stored parameters; None if no row of them is a token's.

  Args:
    path: as `init_from` names them.
    weights: "ema" or "params" of a run.

  Raises:
    InputError: nothing there, or damage.
  """
  if PretrainedModel.is_at(path):
    folder = local_path(path)
    model = PretrainedModel(folder, read_record(folder))
    has_head = model.record.configs["network"].vocab_size
    if not (has_head and (folder / "tokenizer").is_dir()):
      return None
    verify_manifest(folder, below="tokenizer")
    return model.tokenizer
  folder = _item_of_run(path, weights).parent
  with CheckpointStore(folder.parent, read_only=True) as store:
    return from_files(store.files(int(folder.name)))


def item_folder(path: str, weights: str) -> pathlib.Path:
  """The verified Orbax item of parameters that a config key names.

  Args:
    path: converted weights, a workdir, or one of its checkpoints.
    weights: "ema" or "params" of a run.

  Raises:
    InputError: nothing there, or damage.
  """
  if PretrainedModel.is_at(path):
    return PretrainedModel.open(path).folder / "network" / "params"
  item = _item_of_run(path, weights)
  step = item.parent
  verify_step(step.parent, int(step.name))
  return item


def _item_of_run(path: str, weights: str) -> pathlib.Path:
  folder = local_path(path)
  if not (folder.name.isdecimal() and folder.parent.name == "checkpoints"):
    folder = _newest_step(path)
  item = folder / weights
  if not item.is_dir():
    raise InputError(
      f"init_from: {folder} has no {weights}: give a workdir, one of its "
      "checkpoints, or converted weights"
    )
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
