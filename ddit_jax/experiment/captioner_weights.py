"""The weights that a captioner starts from, or that stay frozen below it."""

import dataclasses
import pathlib
from typing import Any

import jax
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh

from ddit_jax.checkpoint.store import CheckpointStore
from ddit_jax.checkpoint.tree_match import stored_shapes, tree_shapes
from ddit_jax.data.tokenizers import Tokenizer
from ddit_jax.errors import InputError
from ddit_jax.experiment.captioner import (
  IMAGE_ENCODER,
  CaptionerConfig,
  CaptionerModel,
  CLIPReader,
)
from ddit_jax.experiment.config import Config
from ddit_jax.experiment.model import DualModel
from ddit_jax.experiment.pretrained import (
  PretrainedModel,
  PretrainedParams,
  item_folder,
)
from ddit_jax.models.module import Variables
from ddit_jax.models.prenorm_block import PreNormConfig

_DECODER = "decoder"
# Names of the parameters of stacked blocks begin so.
_BLOCKS = "blocks."


@dataclasses.dataclass(frozen=True)
class _FirstBlocks(PretrainedParams):
  """Stored parameters of a network, of which the first blocks are needed."""

  @classmethod
  def in_folder(
    cls, folder: pathlib.Path, params: Any, *, key: str
  ) -> "_FirstBlocks":
    """Checks stored parameters.

    Args:
      folder: the Orbax item.
      params: the abstract parameters of the network's first blocks.
      key: the config key that names it.

    Raises:
      InputError: it has fewer blocks, or other or missing arrays.
    """
    stored, needed = stored_shapes(folder), tree_shapes(params)
    for name, (shape, dtype) in needed.items():
      if name.startswith(_BLOCKS) and name in stored:
        depth = max(shape[0], *stored[name][0][:1])
        needed[name] = ((depth, *shape[1:]), dtype)
    found = cls(folder, stored, needed, key=key)
    found.check_shapes()
    found.check_complete("every block that is read must be there")
    return found

  def load(self, params: Any, shardings: Any) -> Any:
    """The stored arrays, of as many blocks as `params` has.

    Args:
      params: abstract, or of arrays that are not used.
      shardings: of all of them.
    """
    flat = flatten_dict(params, sep=".")
    whole = {
      name: jax.ShapeDtypeStruct(self.needed[name][0], array.dtype)
      for name, array in flat.items()
    }
    loaded = super().load(unflatten_dict(whole, sep="."), shardings)

    def cut(loaded):
      arrays = flatten_dict(loaded, sep=".")
      for name, array in arrays.items():
        if name.startswith(_BLOCKS):
          arrays[name] = array[: len(flat[name])]
      return unflatten_dict(arrays, sep=".")

    return jax.jit(cut, out_shardings=shardings)(loaded)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CaptionerWeights:
  """Stored weights of a captioner's parts.

  Attributes:
    model: the captioner.
    features: the image encoder's; None takes random ones.
    decoder: GPT-2's, at the first start; None takes random ones.
  """

  model: CaptionerModel
  features: _FirstBlocks | None
  decoder: _FirstBlocks | None

  @classmethod
  def of_run(
    cls,
    config: CaptionerConfig,
    weights: str,
    model: CaptionerModel,
    files: dict[str, bytes] | None,
  ) -> "CaptionerWeights":
    """Opens and checks what this start needs.

    Args:
      config: of the captioner.
      weights: "ema" or "params" of a run in `features_from`.
      model: made of the config.
      files: of the checkpoint that the run continues from, or None.

    Raises:
      InputError: nothing there, damage, other shapes, or frozen features are
        not those that the captioner was trained on.
    """
    features = decoder = None
    if config.features_from and (not model.is_reader_trained or files is None):
      features = _whole_encoder(config, weights, model)
    if config.decoder_from and files is None:
      decoder = _converted(
        config.decoder_from,
        _DECODER,
        model.network.abstract_variables()["params"][_DECODER],
        "captioner.decoder_from",
        of=model.network.module.decoder_config,
        equal=("depth", "num_heads", "epsilon"),
      )
    found = cls(model=model, features=features, decoder=decoder)
    if files is not None and found.has_base:
      features.check_same_base(files)
    return found

  @property
  def has_base(self) -> bool:
    """Whether checkpoints depend on weights that they do not hold."""
    return self.features is not None and not self.model.is_reader_trained

  @property
  def taken(self) -> list[str]:
    """The parts of the trained network that are loaded."""
    return list(self._of_trained)

  @property
  def _of_trained(self) -> dict[str, _FirstBlocks]:
    """The stored weights of parts of the trained network."""
    parts = {_DECODER: self.decoder}
    if self.model.is_reader_trained:
      parts[IMAGE_ENCODER] = self.features
    return {name: stored for name, stored in parts.items() if stored}

  def report(self) -> str:
    """What is loaded."""
    parts = {"features": self.features, _DECODER: self.decoder}
    return "\n".join(
      f"{name}: {stored.report() if stored else 'not loaded'}"
      for name, stored in parts.items()
    )

  def base_file(self) -> dict[str, bytes]:
    """A checkpoint's metadata about the frozen features, if there are any."""
    return self.features.base_file() if self.has_base else {}

  def load(self, params: Any, shardings: Any) -> Any:
    """`params` with the loaded parts in place of the random ones."""
    loaded = dict(params)
    for name, stored in self._of_trained.items():
      loaded[name] = stored.load(params[name], shardings[name])
    return loaded

  def frozen(
    self, encoders: dict[str, Variables], mesh: Mesh
  ) -> dict[str, Any]:
    """All that stays frozen: what is below the image encoder, and it itself.

    Args:
      encoders: of the MM-DiT, restored.
      mesh: of the run.
    """
    below = self.model.reader.frozen(encoders, mesh)
    return below | self._frozen_image_encoder(mesh)

  def _frozen_image_encoder(self, mesh: Mesh) -> dict[str, Variables]:
    if self.model.is_reader_trained:
      return {}
    encoder, key = self.model.reader.encoder, jax.random.key(0)
    if self.features is None:
      # Random features are the same at every start.
      return {IMAGE_ENCODER: encoder.init_sharded(key, mesh)}
    places = encoder.shardings(mesh)
    shapes = encoder.abstract_variables()
    params = self.features.load(shapes["params"], places.pop("params"))
    constants = jax.jit(
      lambda key: {kind: encoder.init(key)[kind] for kind in places},
      out_shardings=places,
    )(key)
    return {IMAGE_ENCODER: {"params": params, **constants}}


def start_weights(
  config: Config,
  init_from: str,
  model: DualModel | CaptionerModel,
  store: CheckpointStore,
  tokenizer: Tokenizer,
) -> PretrainedParams | CaptionerWeights | None:
  """The stored weights that a start of a run needs; None if there are none.

  Args:
    config: of the run.
    init_from: resolved; "" starts from random weights.
    model: the trained network and the frozen parts around it.
    store: the run's checkpoints.
    tokenizer: of the run.

  Raises:
    InputError: see `PretrainedParams.of_run` and `CaptionerWeights.of_run`.
  """
  if isinstance(model, DualModel):
    return PretrainedParams.of_run(
      *(init_from, config.init_weights, model.network, store, tokenizer),
      is_kept=config.keeps_start,
    )
  step = store.latest_step()
  files = None if step is None else store.files(step)
  return CaptionerWeights.of_run(
    config.captioner, config.init_weights, model, files
  )


def _whole_encoder(
  config: CaptionerConfig, weights: str, model: CaptionerModel
) -> _FirstBlocks:
  """The encoder's stored parameters, of all its blocks."""
  shapes = model.reader.encoder.abstract_variables()["params"]
  if isinstance(model.reader, CLIPReader):
    return _converted(
      *(config.features_from, IMAGE_ENCODER, shapes, "captioner.features_from"),
      of=model.reader.encoder.module.config,
      equal=("num_heads", "activation", "epsilon"),
    )
  folder = item_folder(config.features_from, weights)
  return _FirstBlocks.in_folder(folder, shapes, key="captioner.features_from")


def _converted(
  path: str,
  name: str,
  shapes: Any,
  key: str,
  *,
  of: PreNormConfig,
  equal: tuple[str, ...],
) -> _FirstBlocks:
  """The parameters of a part of converted weights.

  Args:
    path: their folder.
    name: of the part.
    shapes: the abstract parameters.
    key: the config key that names the folder.
    of: the part's config here.
    equal: its fields that must be the same there, and that shapes do not show.
  """
  model = PretrainedModel.open(path)
  if name not in model.record.configs:
    raise InputError(
      f"{key}: {path} holds {', '.join(model.record.configs)}, not the {name}: "
      "convert transformers' folder of it"
    )
  stored = model.record.configs[name]
  for field in equal:
    there, here = getattr(stored, field), getattr(of, field)
    if there != here:
      raise InputError(
        f"{key}: the {name} in {path} has {field} {there!r}, and this "
        f"captioner's {here!r}: choose another captioner.clip or decoder, or "
        "another folder"
      )
  return _FirstBlocks.in_folder(model.folder / name / "params", shapes, key=key)
