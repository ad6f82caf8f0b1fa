"""Everything a run is configured by, as frozen dataclasses.

Importing this file does not import jax, so that configs load at once. Each
section is read by the part of the same name.
"""

import dataclasses

SCHEMA_VERSION = 1
# JAX's keys take 32 bits: a larger seed would be another one in disguise.
MAX_SEED = 2**32 - 1
# The `model.size` that takes its shapes from `model.encoders_from`.
OF_ENCODERS = "of_encoders"


class ConfigError(ValueError):
  """A config that cannot be run, with the way out in one line."""


def _check_positive(section: str, values: dict[str, float]) -> None:
  for name, value in values.items():
    if value <= 0:
      raise ConfigError(f"{section}.{name} must be positive, got {value}")


def _check_seed(name: str, seed: int) -> None:
  if not 0 <= seed <= MAX_SEED:
    raise ConfigError(f"{name} must lie in 0 to {MAX_SEED}, got {seed}")


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
  if value not in choices:
    raise ConfigError(f"{name} must be one of {choices}, got {value!r}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelSettings:
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
    dtype: of the computation, "float32" or "bfloat16"; parameters stay
      float32.
    remat: "none", "dots" or "full", what the backward pass recomputes.
    scan_unroll: blocks compiled as one piece.
    attention_kernel: "auto", "xla" or "cudnn".
  """

  size: str = "tiny"
  encoders_from: str = ""
  encoder_dtype: str = "bfloat16"
  encoder_placement: str = "sharded"
  has_mask_embedding: bool = False
  dtype: str = "float32"
  remat: str = "none"
  scan_unroll: int = 1
  attention_kernel: str = "auto"

  def __post_init__(self):
    _check_choice(
      "model.encoder_placement",
      self.encoder_placement,
      ("sharded", "replicated"),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class StreamSettings:
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
class DataSettings:
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
  text_to_image: StreamSettings = StreamSettings(batch_size=32)
  image_to_text: StreamSettings = StreamSettings(
    batch_size=48, mixture={"0": {"caption": 1.0}}
  )

  def streams(self) -> dict[str, StreamSettings]:
    """Both streams by name."""
    return {
      "text_to_image": self.text_to_image,
      "image_to_text": self.image_to_text,
    }

  def streams_on(self) -> dict[str, StreamSettings]:
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
        raise ConfigError(
          f"data.{name}.batch_size is negative: {stream.batch_size}"
        )
      if stream.pool_size < 0:
        raise ConfigError(
          f"data.{name}.pool_size is negative: {stream.pool_size}; 0 takes "
          "data.pool_size"
        )
      if stream.cache and not self.sources:
        raise ConfigError(
          f"data.{name}.cache is {stream.cache!r}, but the digit world is "
          "drawn as it goes: leave it empty, or name data.sources"
        )
      sizes[f"{name}.image_size"] = stream.image_size
      sizes[f"{name}.text_length"] = stream.text_length
    _check_positive("data", sizes)
    if not self.streams_on():
      raise ConfigError("both streams of data have batch_size 0: nothing to do")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossSettings:
  """The dual loss; see `FlowMatching`, `MaskedDiffusion` and `DualLoss`.

  Attributes:
    image_weighting: "velocity" (paper) or "sigma_squared" (release).
    sigma_grid: "continuous", or "thousand" (release).
    logit_mean: of the logit-normal image times; 0 in the paper.
    sigma_draw: "independent", or "stratified" over the global batch.
    text_weight: lambda_text.
    loss_normalization: "all_positions" (release) or "target_positions".
    mask_count: "bernoulli" (paper) or "exact".
    noise_schedule: "linear" (paper) or "log_linear" (release).
    min_text_time: smallest text time.
    condition_dropout: share of captions replaced by the null caption.
    is_merged: True runs both streams as one batch through the network.
    text_chunk: positions of each text whose float32 logits exist at once; 0
      means all.
  """

  image_weighting: str = "velocity"
  sigma_grid: str = "continuous"
  logit_mean: float = 0.0
  sigma_draw: str = "independent"
  text_weight: float = 0.2
  loss_normalization: str = "all_positions"
  mask_count: str = "bernoulli"
  noise_schedule: str = "linear"
  min_text_time: float = 1e-3
  condition_dropout: float = 0.1
  is_merged: bool = False
  text_chunk: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
  """An optimiser with warm-up, clipping by global norm, and a decay to zero.

  Attributes:
    kind: "adamw" (paper); "adafactor", whose second moment is kept as means
      over rows and columns; or "muon", which orthogonalises the steps of the
      blocks' matrices and leaves the rest to Adam. Learning rates mean about
      the same in all three.
    first_moment_dtype: "float32", or "bfloat16" for a quarter less memory of
      the optimiser; beta1 is then rounded, too (0.9 to 0.8984). The second
      moment stays float32.
    learning_rate: after warm-up.
    warmup_steps: linear warm-up from 0.
    decay: "constant", or "linear" / "cosine" to 0 at the last step.
    decay_fraction: share of all steps, at the end, over which it decays.
    beta1, beta2, epsilon: of AdamW and of Muon's Adam (Muon's own momentum is
      0.95). Adafactor keeps a first moment if beta1 is not 0, and has its own
      schedule in place of beta2 and epsilon.
    weight_decay: on every parameter but the null image, decoupled.
    clip_norm: largest global gradient norm; larger ones are scaled to it.
    ema_decay: largest decay of the averaged parameters; at step i it is
      min(ema_decay, (1 + i) / (10 + i)).
  """

  kind: str = "adamw"
  first_moment_dtype: str = "float32"
  learning_rate: float = 5e-5
  warmup_steps: int = 5000
  decay: str = "constant"
  decay_fraction: float = 1.0
  beta1: float = 0.9
  beta2: float = 0.999
  epsilon: float = 1e-8
  weight_decay: float = 1e-2
  clip_norm: float = 2.0
  ema_decay: float = 0.9999

  def __post_init__(self):
    names = ("learning_rate", "epsilon", "clip_norm", "decay_fraction")
    _check_positive("optimizer", {n: getattr(self, n) for n in names})
    for name in ("beta1", "beta2", "ema_decay"):
      if not 0 <= getattr(self, name) < 1:
        raise ConfigError(
          f"optimizer.{name} must lie in [0, 1), got {getattr(self, name)}"
        )
    _check_choice("optimizer.kind", self.kind, ("adamw", "adafactor", "muon"))
    _check_choice(
      "optimizer.first_moment_dtype",
      self.first_moment_dtype,
      ("float32", "bfloat16"),
    )
    if (
      self.kind == "adafactor"
      and not self.beta1
      and self.first_moment_dtype != "float32"
    ):
      raise ConfigError(
        "optimizer.first_moment_dtype is bfloat16, but adafactor with beta1 = "
        "0 keeps no first moment: leave it float32, or set beta1"
      )
    _check_choice(
      "optimizer.decay", self.decay, ("constant", "linear", "cosine")
    )
    if self.decay_fraction > 1:
      raise ConfigError(
        f"optimizer.decay_fraction is over 1: {self.decay_fraction}"
      )
    for name in ("warmup_steps", "weight_decay"):
      if getattr(self, name) < 0:
        raise ConfigError(
          f"optimizer.{name} is negative: {getattr(self, name)}"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoraSettings:
  """Adapters of low rank on frozen weights; see `ddit_jax.lora`.

  Attributes:
    rank: of each adapter; 0 trains the whole network. Other ranks keep the
      network of `init_from` frozen.
    alpha: adapters are scaled by alpha / rank.
    targets: names joined by commas, which matrices of both streams get one:
      "attention" (q, k, v and output), "mlp".
  """

  rank: int = 0
  alpha: float = 16.0
  targets: str = "attention"

  def __post_init__(self):
    if self.rank < 0:
      raise ConfigError(f"lora.rank is negative: {self.rank}; 0 is off")
    _check_positive("lora", {"alpha": self.alpha})
    for target in self.targets.split(","):
      _check_choice("lora.targets", target, ("attention", "mlp"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshSettings:
  """Devices along each mesh axis; one may be -1, "the rest".

  Attributes:
    replica: copies of the parameters.
    fsdp: ways parameters and batch are split.
    tensor: ways heads and MLP features are split.
  """

  replica: int = 1
  fsdp: int = -1
  tensor: int = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainSettings:
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
    _check_positive("train", {n: getattr(self, n) for n in names})
    if self.mask_embedding_steps < -1:
      raise ConfigError(
        "train.mask_embedding_steps must be -1 (all) or a number of steps, got "
        f"{self.mask_embedding_steps}"
      )
    for name in ("max_skipped_in_row", "max_rollbacks", "sheet_size"):
      if getattr(self, name) < 0:
        raise ConfigError(f"train.{name} is negative: {getattr(self, name)}")
    if self.spike_factor != 0 and self.spike_factor <= 1:
      raise ConfigError(
        f"train.spike_factor must be 0 (off) or above 1: {self.spike_factor}"
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleSettings:
  """Both samplers' defaults.

  Attributes:
    image_steps: Euler steps.
    guidance: scale of classifier-free guidance; 1 is none.
    shift: SD3's shift of the sampling grid; 1 is a uniform grid.
    text_steps: steps of the text sampler.
    text_order: "ancestral" or "confidence".
    temperature: of drawn tokens; 0 takes the most likely.
    batch_size: examples in one call of a sampler.
  """

  image_steps: int = 28
  guidance: float = 7.0
  shift: float = 3.0
  text_steps: int = 16
  text_order: str = "ancestral"
  temperature: float = 1.0
  batch_size: int = 64

  def __post_init__(self):
    names = ("image_steps", "text_steps", "batch_size", "shift")
    _check_positive("sample", {n: getattr(self, n) for n in names})
    _check_choice(
      "sample.text_order", self.text_order, ("ancestral", "confidence")
    )
    if self.temperature < 0:
      raise ConfigError(f"sample.temperature is negative: {self.temperature}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateSettings:
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

  split: str = "test"
  images_per_prompt: int = 4
  num_captions: int = 400
  questions_per_kind: int = 400
  num_pope_images: int = 100
  seed: int = 0

  def __post_init__(self):
    _check_choice("evaluate.split", self.split, ("validation", "test"))
    names = ("images_per_prompt", "num_captions", "questions_per_kind")
    _check_positive("evaluate", {n: getattr(self, n) for n in names})
    if self.num_pope_images < 0:
      raise ConfigError(
        f"evaluate.num_pope_images is negative: {self.num_pope_images}"
      )
    _check_seed("evaluate.seed", self.seed)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExperimentSettings:
  """A whole run.

  Attributes:
    schema_version: of this layout of settings.
    name: shown in reports.
    seed: root of initialisation, data order and training noise.
    init_from: a workdir, or converted weights, whose network this run starts
      from; "" starts fresh.
    init_weights: "ema" or "params" of a workdir's checkpoint; converted
      weights have only one kind.
  """

  schema_version: int = SCHEMA_VERSION
  name: str = "run"
  seed: int = 0
  init_from: str = ""
  init_weights: str = "ema"
  model: ModelSettings = ModelSettings()
  data: DataSettings = dataclasses.field(default_factory=DataSettings)
  loss: LossSettings = LossSettings()
  optimizer: OptimizerSettings = OptimizerSettings()
  lora: LoraSettings = LoraSettings()
  mesh: MeshSettings = MeshSettings()
  train: TrainSettings = TrainSettings()
  sample: SampleSettings = SampleSettings()
  evaluate: EvaluateSettings = EvaluateSettings()

  def __post_init__(self):
    if self.schema_version != SCHEMA_VERSION:
      raise ConfigError(
        f"this config has schema_version {self.schema_version}, this ddit_jax "
        f"reads version {SCHEMA_VERSION}: install the release that wrote it"
      )
    _check_seed("seed", self.seed)
    _check_choice("init_weights", self.init_weights, ("ema", "params"))
    if self.lora.rank and not self.init_from:
      raise ConfigError(
        f"lora.rank is {self.lora.rank} but init_from is empty: name the run "
        "or the converted weights whose network stays frozen"
      )
    if self.lora.rank and self.optimizer.kind == "muon":
      raise ConfigError(
        "optimizer.kind is muon, which orthogonalises the blocks' matrices, "
        "but lora trains none of them: use adamw or adafactor"
      )
    for name, stream in self.data.streams().items():
      if stream.batch_size % self.train.num_microbatches:
        raise ConfigError(
          f"data.{name}.batch_size = {stream.batch_size} is not divisible by "
          f"train.num_microbatches = {self.train.num_microbatches}"
        )
