"""The section `model` of a config: the network and its encoders."""

import dataclasses
from typing import Literal

from jax.sharding import Mesh

from ddit_jax.config.dry_run import TOY_WEIGHTS
from ddit_jax.data.tokenizers import Tokenizer
from ddit_jax.errors import check_choices
from ddit_jax.experiment.encoder_placement import EncoderPlacement
from ddit_jax.experiment.model import DualModel
from ddit_jax.experiment.pretrained import ENCODER_PARTS, PretrainedModel
from ddit_jax.experiment.toy_model import ToyModel
from ddit_jax.files import local_path
from ddit_jax.lora.lora import LoraConfig, LoraNetwork
from ddit_jax.models.config import SIZES, MMDiTConfig, size
from ddit_jax.models.mmdit import Execution
from ddit_jax.models.module import Network, Variables
from ddit_jax.sharding.placement import Placement

# The `model.size` that takes its shapes from `model.encoders_from`.
OF_ENCODERS = "of_encoders"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
  """The network and its encoders.

  Attributes:
    size: a name of `ddit_jax.models.config`, the starting point of the shapes
      below; vocabulary and text length follow from the data. Or "of_encoders",
      the shapes of the network in `encoders_from`, which cannot be changed.
    depth: number of joint blocks; 0 takes that of `size`, as below.
    width: features of both token streams.
    num_heads: attention heads; divides `width`.
    patch_size: side of a square patch in pixels, or in latent pixels where
      there is an autoencoder.
    max_grid: patches along the side of the largest image.
    encoders_from: converted weights whose T5, autoencoder and tokenizer are
      used, frozen; "" works on pixels and embeds tokens itself; "toy" is tiny
      random ones, for dry runs.
    encoder_dtype: in which they are kept and compute, "float32" or "bfloat16".
    encoder_placement: how the mesh splits them.
    has_int8_text_encoder: True keeps T5's kernels as int8, half of bfloat16's
      memory and gathering; see docs/sharding.md for the error.
    has_mask_embedding: True gives the run its own embedding of T5's mask token,
      see `train.mask_embedding_steps`; False uses T5's.
    execution: precision, rematerialisation, kernels.
  """

  size: str = "tiny"
  depth: int = 0
  width: int = 0
  num_heads: int = 0
  patch_size: int = 0
  max_grid: int = 0
  encoders_from: str = ""
  encoder_dtype: Literal["float32", "bfloat16"] = "bfloat16"
  encoder_placement: EncoderPlacement = EncoderPlacement()
  has_int8_text_encoder: bool = False
  has_mask_embedding: bool = False
  execution: Execution = Execution()

  def __post_init__(self):
    check_choices(self)
    if self.encoders_from not in ("", TOY_WEIGHTS):
      # A checkpoint finds its encoders from any folder.
      folder = local_path(self.encoders_from, what="encoders_from")
      object.__setattr__(self, "encoders_from", str(folder))
    changes = self._changes()
    for name, value in changes.items():
      if value < 0:
        raise ValueError(f"{name} is negative: {value}")
    if changes and self.size == OF_ENCODERS:
      raise ValueError(
        f"{next(iter(changes))} is set, but size={OF_ENCODERS!r} takes all "
        "shapes from the converted weights: choose a named size, or leave it 0"
      )
    if self.size in SIZES:
      # It checks the values together.
      size(self.size, **changes)

  def open_encoders(self) -> PretrainedModel | None:
    """The converted weights whose frozen encoders are used, if any.

    Raises:
      ValueError: they are damaged or not there.
    """
    if not self.encoders_from:
      return None
    if self.encoders_from == TOY_WEIGHTS:
      return ToyModel.make()
    return PretrainedModel.open(self.encoders_from)

  def make(
    self,
    tokenizer: Tokenizer,
    encoders: PretrainedModel | None = None,
    *,
    max_text_length: int,
    lora: LoraConfig,
    min_split_bytes: int = 0,
    device_kind: str = "",
  ) -> DualModel:
    """The network between its frozen encoders, if it has any.

    Args:
      tokenizer: the text head has one row for each of its ids.
      encoders: from `open_encoders`.
      max_text_length: tokens of the longest text.
      lora: with a rank, the network's parameters are adapters.
      min_split_bytes: see `Placement`.
      device_kind: see `Config.make_model`.

    Raises:
      ValueError: network and encoders are incompatible.
    """
    network = Network(
      self._network_config(tokenizer, encoders, max_text_length),
      self.execution,
      placement=Placement(min_split_bytes=min_split_bytes),
      has_mask_embedding=self.has_mask_embedding,
    )
    parts = {}
    if encoders is not None:
      # The End-to-End variant embeds its own tokens.
      needs_text_encoder = network.config.context_dim is not None
      encoder_placement = self.encoder_placement.on(device_kind)
      names = ENCODER_PARTS if needs_text_encoder else ("vae",)
      encoders.check_has(names)
      for name in names:
        axes = encoder_placement.axes(name)
        placement = Placement(axes=axes, min_split_bytes=min_split_bytes)
        is_int8 = self.has_int8_text_encoder and name == "text_encoder"
        parts[name] = encoders.encoder(
          name, self.encoder_dtype, placement, has_int8_kernels=is_int8
        )
    if self.has_int8_text_encoder and "text_encoder" not in parts:
      raise ValueError(
        "model.has_int8_text_encoder is True, but there is no text encoder: "
        "set it False"
      )
    model = DualModel(
      network=LoraNetwork(network, lora) if lora.rank else network,
      text_encoder=parts.get("text_encoder"),
      autoencoder=parts.get("vae"),
      mask_id=tokenizer.mask_id,
    )
    model.check_fits()
    return model

  def embeds_tokens(self, encoders: PretrainedModel | None) -> bool:
    """Whether the network embeds token ids itself, without a text encoder.

    Args:
      encoders: from `open_encoders`.
    """
    if self.size != OF_ENCODERS:
      return size(self.size).context_dim is None
    network = encoders.record.configs.get("network") if encoders else None
    return network is not None and network.context_dim is None

  def restore_encoders(
    self, model: DualModel, encoders: PretrainedModel | None, mesh: Mesh
  ) -> dict[str, Variables]:
    """The encoders' weights on the mesh."""
    if encoders is None:
      return {}
    return {
      name: encoders.restore(name, part, mesh)
      for name, part in model.parts().items()
      if name in ENCODER_PARTS
    }

  def _changes(self) -> dict[str, int]:
    """The shapes that differ from those of the named size."""
    names = ("depth", "width", "num_heads", "patch_size", "max_grid")
    return {name: getattr(self, name) for name in names if getattr(self, name)}

  def _network_config(
    self,
    tokenizer: Tokenizer,
    encoders: PretrainedModel | None,
    max_text_length: int,
  ) -> MMDiTConfig:
    if self.size != OF_ENCODERS:
      return size(
        self.size,
        vocab_size=tokenizer.vocab_size,
        max_text_length=max_text_length,
        **self._changes(),
      )
    if encoders is None or "network" not in encoders.record.configs:
      raise ValueError(
        f"model.size={OF_ENCODERS!r} takes the shapes of the network beside "
        "the encoders: set model.encoders_from to converted weights that have "
        "one"
      )
    config = encoders.record.configs["network"]
    if config.vocab_size != tokenizer.vocab_size:
      raise ValueError(
        f"the network in {encoders.folder} has {config.vocab_size} rows of "
        f"text head, its tokenizer {tokenizer.vocab_size} ids: convert with "
        "--target=ddit"
      )
    return config
