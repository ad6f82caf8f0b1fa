"""A language model that reads image features (paper section 4.3, Table 4)."""

import dataclasses
import functools
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, Key, UInt8

from ddit_jax.batch import Images
from ddit_jax.data.text import caption_tokens
from ddit_jax.data.tokenizers import Tokenizer
from ddit_jax.encoders.clip_vision import (
  CLIP_VISION_SIZES,
  clip_vision_encoder,
  normed,
)
from ddit_jax.errors import check_bounds, check_choices, check_known
from ddit_jax.experiment.model import DualModel, ModelParts
from ddit_jax.experiment.model_config import ModelConfig
from ddit_jax.experiment.pretrained import PretrainedModel
from ddit_jax.files import local_path
from ddit_jax.lora.lora import LoraConfig
from ddit_jax.models.captioner import Captioner
from ddit_jax.models.config import SIZES
from ddit_jax.models.gpt2 import GPT2_SIZES, empty_cache
from ddit_jax.models.mmdit import Execution
from ddit_jax.models.module import Network, PureModule, Variables
from ddit_jax.sampling.beam_search import FoundTexts, beam_search
from ddit_jax.sharding.placement import Placement

# The part that reads images, frozen or below the trained network.
IMAGE_ENCODER = "image_encoder"
# Among the frozen variables: the empty caption as an MM-DiT reads it.
NULL_TEXT = "null_text"


@dataclasses.dataclass(frozen=True, kw_only=True)
class MMDiTReader:
  """Image tokens after some block of an MM-DiT, with the empty caption.

  Attributes:
    model: the network, cut off after that block, between its encoders.
    sigma: image time at which images are read.
    null_tokens: the empty caption.
  """

  model: DualModel
  sigma: float
  null_tokens: tuple[int, ...]

  @property
  def encoder(self) -> Network:
    """The network."""
    return self.model.network

  @property
  def width(self) -> int:
    """Features of an image token."""
    return self.encoder.config.width

  def frozen_parts(self) -> dict[str, PureModule]:
    """The encoders of the network's inputs, by name."""
    parts = self.model.parts()
    return {k: part for k, part in parts.items() if k != "network"}

  def prepared(
    self, variables, images: Images, keys: Key[Array, " batch"]
  ) -> Float[Array, "batch height width channels"]:
    """Latents of images at `sigma`, their noise drawn from the keys."""
    latents = self.model.encode(variables, images)
    if not self.sigma:
      return latents
    draw = jax.vmap(lambda key: jax.random.normal(key, latents.shape[1:]))
    return (1 - self.sigma) * latents + self.sigma * draw(keys)

  def pixels(
    self, variables, images: Images
  ) -> UInt8[Array, "batch height width 3"]:
    """The images, decoded if they are cached latents."""
    if not jnp.issubdtype(images.dtype, jnp.floating):
      return images
    return self.model.decode(variables, self.model.encode(variables, images))

  def frozen(self, encoders: dict[str, Variables], mesh: Mesh):
    """What stays frozen: the empty caption's features in place of T5."""
    null = jnp.array(self.null_tokens)[None]
    encode = jax.jit(
      functools.partial(self.model.condition, text=null, is_text_clean=True),
      out_shardings=NamedSharding(mesh, PartitionSpec()),
    )
    rest = {k: part for k, part in encoders.items() if k != "text_encoder"}
    return rest | {NULL_TEXT: encode(encoders)}

  def inputs(self, variables, prepared) -> tuple[jax.Array, ...]:
    """The network's arguments."""
    text, size = variables[NULL_TEXT], len(prepared)
    text = jnp.broadcast_to(text, (size, *text.shape[1:]))
    return prepared, text, jnp.full(size, self.sigma)

  def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
    """See `DualModel.latent_shape`."""
    return self.model.latent_shape(height, width)

  def num_tokens(self, height: int, width: int) -> int:
    """Tokens of an image, by its sides in pixels."""
    unit = self.model.pixels_per_patch
    return (height // unit) * (width // unit)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CLIPReader:
  """All tokens of some block of CLIP's image encoder.

  Attributes:
    encoder: CLIP's, cut off after that block.
  """

  encoder: PureModule

  @property
  def width(self) -> int:
    """Features of an image token."""
    return self.encoder.module.config.width

  def frozen_parts(self) -> dict[str, PureModule]:
    """None: it reads pixels."""
    return {}

  def prepared(
    self, variables, images: Images, keys: Key[Array, " batch"]
  ) -> Float[Array, "batch height width 3"]:
    """Normed pixels; nothing is drawn."""
    del variables, keys
    if jnp.issubdtype(images.dtype, jnp.floating):
      raise ValueError(
        "CLIP reads pixels, not cached latents: set data.image_to_text.cache=''"
      )
    return normed(images.astype(jnp.float32) / 255)

  def pixels(
    self, variables, images: Images
  ) -> UInt8[Array, "batch height width 3"]:
    """The images."""
    del variables
    return images

  def frozen(self, encoders: dict[str, Variables], mesh: Mesh):
    """Nothing is below it."""
    del encoders, mesh
    return {}

  def inputs(self, variables, prepared) -> tuple[jax.Array, ...]:
    """The encoder's arguments."""
    del variables
    return (prepared,)

  def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
    """The pixels' own shape.

    Raises:
      ValueError: CLIP reads another size.
    """
    side = self.encoder.module.config.image_size
    if (height, width) != (side, side):
      raise ValueError(
        f"images of {height} x {width} pixels do not fit this CLIP: set "
        f"data.image_to_text.image_size={side}"
      )
    return height, width, 3

  def num_tokens(self, height: int, width: int) -> int:
    """Tokens of an image; CLIP has one size only."""
    del height, width
    return self.encoder.module.config.num_tokens


@dataclasses.dataclass(frozen=True, kw_only=True)
class CaptionerModel(ModelParts):
  """A trained captioner; all methods are pure functions.

  Attributes:
    network: the captioner, with the image encoder if that is trained.
    reader: what it reads of images.
    is_reader_trained: whether the image encoder is part of the network.
    end_id: ends and pads a text.
  """

  network: PureModule
  reader: MMDiTReader | CLIPReader
  is_reader_trained: bool
  end_id: int

  def parts(self) -> dict[str, PureModule]:
    """The modules by the name of their variables."""
    parts = {"network": self.network} | self.reader.frozen_parts()
    if not self.is_reader_trained:
      parts[IMAGE_ENCODER] = self.reader.encoder
    return parts

  def check_runs_on(self, mesh: Mesh) -> None:
    """Raises InputError if the mesh cannot run the attention as configured."""
    if isinstance(self.reader, MMDiTReader):
      self.reader.model.check_runs_on(mesh)

  def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
    """The shape in which the encoder reads an image of these sides.

    Raises:
      ValueError: it does not read such images.
    """
    return self.reader.latent_shape(height, width)

  def check_length(self, height: int, width: int, text_length: int) -> None:
    """Raises ValueError if image and text are too long for GPT-2."""
    most = self.network.module.decoder_config.max_length
    num_image = self.reader.num_tokens(height, width)
    if num_image + text_length > most:
      raise ValueError(
        f"images of {height} x {width} pixels are {num_image} tokens and texts "
        f"{text_length}, but GPT-2 has {most} positions: set a smaller "
        "data.image_to_text.image_size or text_length"
      )

  def read(
    self, variables, images: Images, keys: Key[Array, " batch"]
  ) -> Float[Array, "batch *features"]:
    """Features of a frozen encoder; what a trained one reads."""
    prepared = self.reader.prepared(variables, images, keys)
    if self.is_reader_trained:
      return prepared
    inputs = self.reader.inputs(variables, prepared)
    frozen = variables[IMAGE_ENCODER]
    return self.reader.encoder.apply(frozen, *inputs).image_hidden

  def caption_logits(
    self,
    variables,
    read: Float[Array, "batch *features"],
    tokens: Int[Array, "batch length"],
  ) -> Float[Array, "batch length vocab"]:
    """Logits of each token, from the image and the tokens before it."""
    image = self._image(variables, read)
    return self.network.apply(variables["network"], tokens, *image)

  def captions(
    self,
    variables,
    images: Images,
    keys: Key[Array, " batch"],
    *,
    length: int,
    width: int,
  ) -> FoundTexts:
    """The most likely texts that a search finds, see `beam_search`.

    Args:
      variables: of all parts.
      images: see `batch.Images`.
      keys: draw the noise of each image.
      length: tokens of the longest text.
      width: beginnings that are kept.
    """
    image = self._image(variables, self.read(variables, images, keys))
    trained = variables["network"]

    def call(method: str, *inputs):
      return self.network.apply(trained, *inputs, method=method)

    prefix = jax.eval_shape(lambda: call("prefix", *image))
    batch, num_image, _ = prefix.shape
    cache = empty_cache(
      self.network.module.decoder_config,
      batch=batch,
      length=num_image + length,
      dtype=self.network.module.dtype,
    )
    logits, cache = call("start", cache, *image)
    return beam_search(
      logits,
      cache,
      # The first token of the text follows the image's last.
      lambda cache, newest, count: call(
        "next", cache, newest, num_image + count - 1
      ),
      length=length,
      width=width,
      end_id=self.end_id,
    )

  def _image(self, variables, read) -> tuple[jax.Array, ...]:
    """The captioner's arguments about the images."""
    if not self.is_reader_trained:
      return (read,)
    return self.reader.inputs(variables, read)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CaptionerConfig:
  """A GPT-2 that is trained to caption image features, in place of D-DiT.

  Attributes:
    features: "none" trains D-DiT; "mmdit" reads the network of `model`, with
      the empty caption; "clip" reads CLIP's image encoder. A captioner needs
      data.text_to_image.batch_size=0.
    features_from: their weights: of "mmdit" converted weights or a run (its
      newest checkpoint, `init_weights`), of "clip" converted weights; "" is a
      random network, for dry runs and as a control.
    layer: the block after which image tokens are read, counted from 1. The
      paper reads the 18th of SD3's 24.
    sigma: image time at which an MM-DiT reads, in [0, 1]; 0 is without noise.
    is_reader_trained: True trains the blocks that are read, too.
    clip: a name of `CLIP_VISION_SIZES`.
    decoder: a name of `GPT2_SIZES`.
    decoder_from: converted weights of GPT-2, which fit only its own tokenizer;
      "" starts from random ones.
  """

  features: Literal["none", "mmdit", "clip"] = "none"
  features_from: str = ""
  layer: int = 18
  sigma: float = 0.0
  is_reader_trained: bool = False
  clip: str = "L"
  decoder: str = "gpt2"
  decoder_from: str = ""

  def __post_init__(self):
    check_choices(self)
    check_bounds(self, layer=1024)
    check_known([self.clip], CLIP_VISION_SIZES, what="captioner.clip has no")
    check_known([self.decoder], GPT2_SIZES, what="captioner.decoder has no")
    if not 0 <= self.sigma <= 1:
      raise ValueError(f"sigma must be in [0, 1], got {self.sigma}")
    for name in ("features_from", "decoder_from"):
      if path := getattr(self, name):
        # A checkpoint finds them from any folder.
        object.__setattr__(self, name, str(local_path(path, what=name)))

  @property
  def is_on(self) -> bool:
    """Whether a captioner is trained, in place of D-DiT."""
    return self.features != "none"

  def num_blocks(self, model: ModelConfig) -> int | None:
    """Blocks of the network that is read; None if only weights tell."""
    if self.features == "clip":
      return CLIP_VISION_SIZES[self.clip].depth
    return model.depth or getattr(SIZES.get(model.size), "depth", None)

  def make(
    self,
    model: ModelConfig,
    tokenizer: Tokenizer,
    encoders: PretrainedModel | None,
    *,
    max_text_length: int,
    min_split_bytes: int,
    device_kind: str,
  ) -> CaptionerModel:
    """The captioner and what it reads.

    Args:
      model: the MM-DiT, and the execution of all.
      tokenizer: of the captions.
      encoders: of the MM-DiT.
      max_text_length: tokens of the longest text.
      min_split_bytes: see `Placement`.
      device_kind: as of `ModelConfig.make`.

    Raises:
      ValueError: the parts do not fit together.
    """
    placement = Placement(min_split_bytes=min_split_bytes)
    if self.features == "mmdit":
      whole = model.make(
        tokenizer,
        encoders,
        max_text_length=max_text_length,
        lora=LoraConfig(),
        min_split_bytes=min_split_bytes,
        device_kind=device_kind,
      )
      # A text encoder has its own tokenizer.
      own = tokenizer if whole.text_encoder is None else encoders.tokenizer
      null = caption_tokens(own, "", max_text_length)
      reader = self._mmdit_reader(whole, null, placement)
    else:
      reader = self._clip_reader(model.execution.dtype, placement)
    return CaptionerModel(
      network=self._network(model.execution, tokenizer, reader, placement),
      reader=reader,
      is_reader_trained=self.is_reader_trained,
      end_id=tokenizer.end_id,
    )

  def _network(
    self,
    execution: Execution,
    tokenizer: Tokenizer,
    reader: "MMDiTReader | CLIPReader",
    placement: Placement,
  ) -> PureModule:
    """What is trained: the decoder, with the image encoder or without."""
    encoder = reader.encoder if self.is_reader_trained else None
    image = (jax.ShapeDtypeStruct((1, 1, reader.width), jnp.float32),)
    if encoder is not None:
      image = encoder.example_inputs
    decoder = dataclasses.replace(
      GPT2_SIZES[self.decoder],
      # The mask, the last id, is never written.
      vocab_size=tokenizer.mask_id,
    )
    return PureModule(
      module=Captioner(
        decoder,
        None if encoder is None else encoder.module,
        execution.dtype,
        execution.remat != "none",
      ),
      example_inputs=(jax.ShapeDtypeStruct((1, 1), jnp.int32), *image),
      placement=placement,
    )

  def _mmdit_reader(
    self, whole: DualModel, null: Int[np.ndarray, " length"], placement
  ) -> MMDiTReader:
    old = whole.network
    network = Network(
      old.config.first_blocks(self.layer), old.execution, placement=placement
    )
    return MMDiTReader(
      model=dataclasses.replace(whole, network=network),
      sigma=self.sigma,
      null_tokens=tuple(null.tolist()),
    )

  def _clip_reader(self, dtype: str, placement: Placement) -> CLIPReader:
    config = CLIP_VISION_SIZES[self.clip]
    if self.layer > config.depth:
      raise ValueError(
        f"captioner.layer is {self.layer}, but CLIP's blocks are numbered 1 to "
        f"{config.depth}"
      )
    config = dataclasses.replace(config, depth=self.layer)
    encoder = clip_vision_encoder(config, dtype=dtype)
    return CLIPReader(encoder=dataclasses.replace(encoder, placement=placement))
