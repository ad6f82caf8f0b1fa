"""The checkpoints of a golden set, each converted from its own format."""

import contextlib
import dataclasses
import functools
import pathlib
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from ddit_jax.conversion.configs import NetworkConfig, module_of
from ddit_jax.conversion.convert import ConvertOptions, convert, plan_import
from ddit_jax.conversion.plan import NetworkPlan
from ddit_jax.experiment.model import DualModel
from parity.golden_set import GoldenSetError

# Name -> (folder, format).
PLACES = {
  "ddit": ("ckpt/ddit", "ddit_folder"),
  "ddit_realvocab": ("ckpt/ddit_realvocab", "ddit_folder"),
  "sd3_folder": ("ckpt/sd3_diffusers", "sd3_folder"),
  "sd3_single": ("ckpt/sd3_single_file", "single_file"),
}
# The networks with recorded arrays; CLIP has none.
PARTS = ("network", "text_encoder", "vae")
# Both hold the same weights.
SD3_NAMES = ("sd3_folder", "sd3_single")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
  """One network of a checkpoint with its weights.

  Attributes:
    config: its shapes.
    module: its pure functions.
    variables: its weights, float32.
    plan: which published tensor became which of them.
  """

  config: NetworkConfig
  module: Any
  variables: Mapping[str, Any]
  plan: NetworkPlan

  @functools.cached_property
  def apply(self):
    """`module.apply` with these weights, jitted."""
    return self._with_weights()

  @functools.cached_property
  def encode(self):
    """The autoencoder's `encode`, jitted."""
    return self._with_weights(method="encode")

  @functools.cached_property
  def decode(self):
    """The autoencoder's `decode`, jitted."""
    return self._with_weights(method="decode")

  def tensors(self, params) -> dict[str, np.ndarray]:
    """Parameters, or a tree like them (gradients), by the published names."""
    leaves = jax.tree_util.tree_leaves_with_path({"params": params})
    ours = {
      jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
      for path, leaf in leaves
    }
    found = {}
    for (path, number), parts in self.plan.blocks.items():
      if path in ours:
        block = ours[path] if number is None else ours[path][number]
        for part in parts:
          if part.key is not None:
            found[part.key] = part.to_theirs(block)
    return found

  def _with_weights(self, **options):
    function = _jitted(self.config, **options)
    return functools.partial(function, self.variables)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loaded:
  """A converted checkpoint.

  Attributes:
    parts: those of `PARTS` that it has.
    plain_folders: our name of a copied folder -> its path.
  """

  parts: Mapping[str, Part]
  plain_folders: Mapping[str, pathlib.Path]

  def __getitem__(self, name: str) -> Part:
    """A network.

    Raises:
      GoldenSetError: the checkpoint does not have it.
    """
    if name not in self.parts:
      raise GoldenSetError(
        f"the checkpoint has no {name}, only {sorted(self.parts)}"
      )
    return self.parts[name]

  @property
  def mask_id(self) -> int:
    """The mask token, which is the last id of tokenizer and text head."""
    return self["network"].config.vocab_size - 1

  @functools.cached_property
  def dual(self) -> DualModel:
    """The network and its text encoder, without autoencoder."""
    return DualModel(
      network=self["network"].module,
      text_encoder=self["text_encoder"].module,
      mask_id=self.mask_id,
    )

  @functools.cached_property
  def predict(self):
    """(latents, tokens, sigma) -> Prediction, jitted."""
    variables = {
      name: self[name].variables for name in ("network", "text_encoder")
    }

    def predict(variables, latents, tokens, sigma):
      condition = self.dual.condition(variables, tokens)
      return self.dual.predict(variables, latents, condition, sigma)

    return functools.partial(jax.jit(predict), variables)


class Checkpoints:
  """Converts each checkpoint on first use."""

  def __init__(self, folder: pathlib.Path, workspace: pathlib.Path):
    """Args: the golden set's folder, and one for converted checkpoints."""
    self._folder = folder
    self._workspace = workspace
    self._loaded: dict[tuple[str, str], Loaded] = {}

  def get(self, name: str, target: str = "ddit") -> Loaded:
    """A checkpoint of `PLACES`, as the network of `target`.

    Raises:
      InputError: it is missing or damaged.
    """
    key = (name, target)
    if key not in self._loaded:
      self._loaded[key] = self._load(name, target)
    return self._loaded[key]

  def sd3(self, target: str = "sd3") -> dict[str, Loaded]:
    """SD3 from each format that the set has, as the network of `target`.

    Raises:
      GoldenSetError: the set has none.
    """
    present = [
      name for name in SD3_NAMES if (self._folder / PLACES[name][0]).exists()
    ]
    if not present:
      places = " or ".join(PLACES[name][0] for name in SD3_NAMES)
      raise GoldenSetError(f"{self._folder} has no {places}")
    return {name: self.get(name, target) for name in present}

  def _load(self, name: str, target: str) -> Loaded:
    place, format_name = PLACES[name]
    options = ConvertOptions(
      format=format_name, target=target, dtype="float32", is_verified=True
    )
    plan = plan_import(self._folder / place, options)
    destination = self._workspace / f"{name}_as_{target}"
    convert(plan, destination, options)
    return Loaded(
      parts={
        part.name: _restored(part, destination)
        for part in plan.networks
        if part.name in PARTS
      },
      plain_folders=dict(plan.source.plain_folders),
    )


@contextlib.contextmanager
def converted(folder: pathlib.Path) -> Iterator[Checkpoints]:
  """The checkpoints of a set, converted into a temporary folder."""
  with tempfile.TemporaryDirectory() as workspace:
    yield Checkpoints(folder, pathlib.Path(workspace))


def _restored(plan: NetworkPlan, checkpoint: pathlib.Path) -> Part:
  variables = {
    folder.name: ocp.PyTreeCheckpointer().restore(folder.absolute())
    for folder in sorted((checkpoint / plan.name).iterdir())
  }
  return Part(
    config=plan.config,
    module=module_of(plan.config),
    variables=jax.device_put(variables),
    plan=plan,
  )


@functools.cache
def _jitted(config: NetworkConfig, **options):
  """One function, so one compilation for all checkpoints of equal shapes."""
  return jax.jit(functools.partial(module_of(config).apply, **options))
