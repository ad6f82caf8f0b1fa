"""The frozen network under a run's adapters: restored, never saved."""

import dataclasses
import json

import jax
from jax.sharding import Mesh

from ddit_jax.checkpoint.manifest import MANIFEST_NAME, contents_digest
from ddit_jax.experiment.converted import restore_item
from ddit_jax.experiment.starting_weights import StartingWeights
from ddit_jax.input_error import InputError
from ddit_jax.lora.adapters import LoraConfig
from ddit_jax.lora.lora_network import LoraNetwork
from ddit_jax.models.network import Network
from ddit_jax.models.pure_module import Variables
from ddit_jax.settings import ExperimentSettings, LoraSettings

# Beside the tokenizer's files in a checkpoint of adapters.
BASE_FILE = "lora_base.json"


def with_adapters(network: Network, settings: LoraSettings) -> Network:
  """The network under fresh adapters, or as it is where they are off."""
  if not settings.rank:
    return network
  config = LoraConfig(
    rank=settings.rank,
    alpha=settings.alpha,
    targets=tuple(settings.targets.split(",")),
  )
  return LoraNetwork(network, config)


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
    cls, settings: ExperimentSettings, network: LoraNetwork
  ) -> "FrozenBase":
    """Finds and verifies the parameters that `init_from` names.

    Raises:
      InputError: nothing there, damage, other shapes, or arrays missing.
    """
    wanted = network.network.abstract_variables()["params"]
    weights = StartingWeights.open(
      settings.init_from, settings.init_weights, wanted
    )
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
    wanted = jax.tree.map(
      lambda leaf, where: jax.ShapeDtypeStruct(
        leaf.shape, leaf.dtype, sharding=where
      ),
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
