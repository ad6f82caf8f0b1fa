"""The root of a run's config: the nest of all parts.

Every setting is a field of the part that uses it and is documented there;
`config.load` builds the tree from a config file, and refuses unknown keys.
"""

import dataclasses
from typing import Literal

from ml_collections import ConfigDict

from ddit_jax.config.load import to_config_dict
from ddit_jax.lora.lora import LoraConfig
from ddit_jax.losses.dual import DualLoss
from ddit_jax.models.mmdit import Execution
from ddit_jax.prng import check_seed
from ddit_jax.sampling.image_sampler import ImageSampling
from ddit_jax.sampling.text_sampler import TextSampling
from ddit_jax.sharding.mesh import MeshConfig
from ddit_jax.train.optimizer import OptimizerConfig

# The `model.size` that takes its shapes from `model.encoders_from`.
OF_ENCODERS = "of_encoders"


def _check_positive(values: dict[str, float]) -> None:
  for name, value in values.items():
    if value <= 0:
      raise ValueError(f"{name} must be positive, got {value}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
  """Which network.

  Attributes:
    size: a name of `ddit_jax.models.config`, whose vocabulary and text length
      follow from the data; or "of_encoders", the shapes of the network in
      `encoders_from`.
    encoders_from: converted weights whose T5, autoencoder and tokenizer are
      used, frozen; "" works on pixels and embeds tokens itself; "toy" is tiny
      random ones, for dry runs.
    encoder_dtype: in which they are kept and compute, "float32" or "bfloat16".
    encoder_placement: "sharded" like the network, or "replicated".
    has_mask_embedding: True gives the run its own row for T5's mask token,
      see `train.mask_embedding_steps`; False uses T5's.
    execution: precision, rematerialisation, kernels.
  """

  size: str = "tiny"
  encoders_from: str = ""
  encoder_dtype: Literal["float32", "bfloat16"] = "bfloat16"
  encoder_placement: Literal["sharded", "replicated"] = "sharded"
  has_mask_embedding: bool = False
  execution: Execution = Execution()


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskConfig:
  """One of the two streams of examples.

  Attributes:
    batch_size: global batch size; 0 turns the stream and its loss off.
    image_size: side of the square images of `data.sources`, in pixels; the
      digit world has its own.
    text_length: tokens of every text.
    mixture: step -> name -> weight, from that step on. Names are those of
      `data.sources`; in the digit world they are kinds of text ("caption" and
      the kinds of question), and its images need none.
    crop: "centre" or "random" square of an image.
    flip_probability: of mirroring an image whose text names no side.
    rewritten_probability: of taking a rewritten caption where there is one.
    cache: folder that `ddit prepare --cache` wrote, whose encoder outputs take
      the place of images; "" reads and encodes the images.
    pool_size: scenes of the digit world drawn once for this stream; 0 takes
      `data.pool_size`.
  """

  batch_size: int
  image_size: int = 256
  text_length: int = 10
  mixture: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
  crop: str = "centre"
  flip_probability: float = 0.0
  rewritten_probability: float = 1.0
  cache: str = ""
  pool_size: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
  """What both streams read.

  Attributes:
    world: the digit world, see `ddit_jax.digits.world`; only used without
      `sources`.
    sources: name -> what `ddit_jax.data.sources.registry` takes; {} draws
      the digit world.
    tokenizer: "KIND:FOLDER", KIND "t5" or "gpt2"; "" takes T5's of
      `model.encoders_from`, or without it the digit world's.
    max_bad_share: of a source's records that may be unreadable; more stop the
      run.
    pool_size: scenes drawn once for each stream that names no number itself.
    validation_size: examples of each stream's validation loss.
    text_to_image: the stream of the image loss.
    image_to_text: the stream of the text loss.
  """

  world: str = "one_digit"
  sources: dict[str, dict[str, object]] = dataclasses.field(
    default_factory=dict
  )
  tokenizer: str = ""
  max_bad_share: float = 0.01
  pool_size: int = 20000
  validation_size: int = 256
  text_to_image: TaskConfig = TaskConfig(batch_size=32)
  image_to_text: TaskConfig = TaskConfig(
    batch_size=48, mixture={"0": {"caption": 1.0}}
  )

  def streams(self) -> dict[str, TaskConfig]:
    """Both streams by name."""
    return {
      "text_to_image": self.text_to_image,
      "image_to_text": self.image_to_text,
    }

  def streams_on(self) -> dict[str, TaskConfig]:
    """Those with a batch."""
    streams = self.streams().items()
    return {name: stream for name, stream in streams if stream.batch_size}

  @property
  def max_text_length(self) -> int:
    """Tokens of the longer stream's texts."""
    return max(stream.text_length for stream in self.streams().values())

  def __post_init__(self):
    sizes = {
      "pool_size": self.pool_size,
      "validation_size": self.validation_size,
    }
    for name, stream in self.streams().items():
      if stream.batch_size < 0:
        raise ValueError(f"{name}.batch_size is negative: {stream.batch_size}")
      if stream.pool_size < 0:
        raise ValueError(
          f"{name}.pool_size is negative: {stream.pool_size}; 0 takes "
          "data.pool_size"
        )
      if stream.cache and not self.sources:
        raise ValueError(
          f"{name}.cache is {stream.cache!r}, but the digit world is "
          "drawn as it goes: leave it empty, or name data.sources"
        )
      sizes[f"{name}.image_size"] = stream.image_size
      sizes[f"{name}.text_length"] = stream.text_length
    _check_positive(sizes)
    if not self.streams_on():
      raise ValueError(
        "text_to_image.batch_size and image_to_text.batch_size are both 0: "
        "nothing to do"
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
  """The loop.

  Attributes:
    num_steps: updates in all.
    num_microbatches: parts of a batch whose gradients are added up.
    has_stream_norms: True logs the gradient norm of each stream alone, which
      holds both gradients at once.
    mask_embedding_steps: steps for which the mask's own row of T5 is trained,
      by going back through T5; it is frozen afterwards. -1 means all.
    max_skipped_in_row: batches in a row whose loss or gradient may not be
      finite; one more stops the run. They never change the weights.
    spike_factor: a total loss above this many times its recent median takes
      the run back to its last checkpoint and past the batch; 0 never does.
    max_rollbacks: of one start; one more stops the run.
    log_every: steps between lines of scalars.
    validate_every: steps between validation losses on the averaged
      parameters; also decides which checkpoint is best.
    sheet_size: captions drawn and images read at every validation, as
      pictures; 0 draws none.
    checkpoint_every: steps between checkpoints.
    keep_last: checkpoints kept besides the best.
  """

  num_steps: int = 1000
  num_microbatches: int = 1
  has_stream_norms: bool = True
  mask_embedding_steps: int = -1
  max_skipped_in_row: int = 10
  spike_factor: float = 0.0
  max_rollbacks: int = 3
  log_every: int = 20
  validate_every: int = 500
  sheet_size: int = 0
  checkpoint_every: int = 500
  keep_last: int = 2

  def __post_init__(self):
    names = (
      "num_steps",
      "num_microbatches",
      "log_every",
      "validate_every",
      "checkpoint_every",
      "keep_last",
    )
    _check_positive({n: getattr(self, n) for n in names})
    if self.mask_embedding_steps < -1:
      raise ValueError(
        "mask_embedding_steps must be -1 (all) or a number of steps, got "
        f"{self.mask_embedding_steps}"
      )
    for name in ("max_skipped_in_row", "max_rollbacks", "sheet_size"):
      if getattr(self, name) < 0:
        raise ValueError(f"{name} is negative: {getattr(self, name)}")
    if self.spike_factor != 0 and self.spike_factor <= 1:
      raise ValueError(
        f"spike_factor must be 0 (off) or above 1: {self.spike_factor}"
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleConfig:
  """Both samplers' defaults.

  Attributes:
    image: text to image.
    text: image to text.
    batch_size: examples in one call of a sampler.
  """

  image: ImageSampling = ImageSampling()
  text: TextSampling = TextSampling()
  batch_size: int = 64

  def __post_init__(self):
    _check_positive({"batch_size": self.batch_size})


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
  """How much is evaluated, and on whose handwriting.

  Attributes:
    split: "validation" for choosing settings, "test" for reporting.
    images_per_prompt: drawings of each prompt.
    num_captions: images captioned.
    questions_per_kind: questions of each kind.
    num_pope_images: images of each POPE file, six questions each; 0 leaves
      POPE out.
    seed: of the sets and of sampling.
  """

  split: Literal["validation", "test"] = "test"
  images_per_prompt: int = 4
  num_captions: int = 400
  questions_per_kind: int = 400
  num_pope_images: int = 100
  seed: int = 0

  def __post_init__(self):
    names = ("images_per_prompt", "num_captions", "questions_per_kind")
    _check_positive({n: getattr(self, n) for n in names})
    if self.num_pope_images < 0:
      raise ValueError(f"num_pope_images is negative: {self.num_pope_images}")
    check_seed(self.seed)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """A whole run.

  Attributes:
    schema_version: counts the incompatible changes of the keys.
    name: shown in reports.
    seed: root of initialisation, data order and training noise.
    init_from: a workdir, or converted weights, whose network this run starts
      from; "" starts from random weights.
    init_weights: which weights of a workdir's checkpoint; converted weights
      have only one kind.
  """

  schema_version: int = 2
  name: str = "run"
  seed: int = 0
  init_from: str = ""
  init_weights: Literal["ema", "params"] = "ema"
  model: ModelConfig = ModelConfig()
  data: DataConfig = dataclasses.field(default_factory=DataConfig)
  loss: DualLoss = DualLoss()
  optimizer: OptimizerConfig = OptimizerConfig()
  lora: LoraConfig = LoraConfig()
  mesh: MeshConfig = MeshConfig()
  train: TrainConfig = TrainConfig()
  sample: SampleConfig = SampleConfig()
  evaluate: EvaluateConfig = EvaluateConfig()

  def __post_init__(self):
    check_seed(self.seed)
    if self.lora.rank and not self.init_from:
      raise ValueError(
        f"lora.rank is {self.lora.rank} but init_from is empty: name the run "
        "or the converted weights whose network stays frozen"
      )
    if self.lora.rank and self.optimizer.kind == "muon":
      raise ValueError(
        "optimizer.kind is muon, which orthogonalises the blocks' matrices, "
        "but lora trains none of them: use adamw or adafactor"
      )
    for name, stream in self.data.streams().items():
      if stream.batch_size % self.train.num_microbatches:
        raise ValueError(
          f"data.{name}.batch_size = {stream.batch_size} is not divisible by "
          f"train.num_microbatches = {self.train.num_microbatches}"
        )


def default_config() -> ConfigDict:
  """What a config file starts from: every key with its default."""
  return to_config_dict(Config())
