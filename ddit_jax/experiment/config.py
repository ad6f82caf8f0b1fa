"""The root of a run's config: the nest of all parts.

Every setting is a field of the part that uses it and is documented there;
`config.load` builds the tree from a config file and rejects unknown keys.
"""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Literal

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int
from ml_collections import ConfigDict

from ddit_jax.config.load import to_config_dict
from ddit_jax.data.config import DataConfig
from ddit_jax.data.tokenizers import Tokenizer
from ddit_jax.errors import check_choices
from ddit_jax.experiment.captioner import CaptionerConfig, CaptionerModel
from ddit_jax.experiment.model import DualModel
from ddit_jax.experiment.model_config import ModelConfig
from ddit_jax.experiment.pretrained import PretrainedModel
from ddit_jax.files import local_path
from ddit_jax.lora.lora import LoraConfig
from ddit_jax.losses.captioning import CaptionLoss
from ddit_jax.losses.dual import DualLoss
from ddit_jax.losses.likelihood import LikelihoodConfig
from ddit_jax.losses.objective import Objective
from ddit_jax.planning.chips import is_roomy
from ddit_jax.planning.compiler_options import as_setting, compiler_options
from ddit_jax.post_training.config import PostTraining
from ddit_jax.post_training.rollouts import Rollouts
from ddit_jax.prng import check_seed
from ddit_jax.protocols.config import BenchmarksConfig
from ddit_jax.sampling.image_sampler import ImageSampling
from ddit_jax.sampling.text_options import TextSampling
from ddit_jax.sharding.mesh import MeshConfig, check_batch_divides
from ddit_jax.train.loop import TrainConfig
from ddit_jax.train.optimizer import OptimizerConfig

# Prefix of an `init_from` that names an earlier stage of the same job.
STAGE = "stage:"


def _check_positive(values: dict[str, float]) -> None:
  for name, value in values.items():
    if value <= 0:
      raise ValueError(f"{name} must be positive, got {value}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleConfig:
  """Both samplers' defaults.

  Attributes:
    image: text to image.
    text: image to text.
    beam_width: beginnings that a captioner's search keeps; 1 is greedy.
    batch_size: examples in one call of a sampler.
  """

  image: ImageSampling = ImageSampling()
  text: TextSampling = TextSampling()
  beam_width: int = 1
  batch_size: int = 64

  def __post_init__(self):
    names = ("beam_width", "batch_size")
    _check_positive({name: getattr(self, name) for name in names})


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
  """The amount of evaluation, and the split of handwriting.

  Attributes:
    split: "validation" for tuning, "test" for reporting.
    images_per_prompt: generated images per prompt.
    num_captions: images captioned.
    questions_per_kind: questions of each kind.
    num_pope_images: images of each POPE file, six questions each; 0 leaves
      POPE out.
    is_full: True also asks MME's and GQA's questions and evaluates texts about
      training writers, and writes all tables of docs/digits.md to tables.md.
      Of a captioner there are none.
    seed: of the sets and of sampling.
    likelihood: how likelihoods are estimated.
  """

  split: Literal["validation", "test"] = "test"
  images_per_prompt: int = 4
  num_captions: int = 400
  questions_per_kind: int = 400
  num_pope_images: int = 100
  is_full: bool = False
  seed: int = 0
  likelihood: LikelihoodConfig = LikelihoodConfig()

  def __post_init__(self):
    check_choices(self)
    names = ("images_per_prompt", "num_captions", "questions_per_kind")
    _check_positive({n: getattr(self, n) for n in names})
    if self.num_pope_images < 0:
      raise ValueError(f"num_pope_images is negative: {self.num_pope_images}")
    check_seed(self.seed)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """A whole run.

  Attributes:
    schema_version: incremented at incompatible changes of the keys.
    name: shown in reports.
    seed: root of initialisation, data order and training noise.
    init_from: a workdir (its newest checkpoint), one checkpoint
      (WORKDIR/checkpoints/STEP), or converted weights, whose network this run
      starts from; "stage:NAME" is an earlier stage of the same job; "" starts
      from random weights.
    init_weights: which weights of a workdir's checkpoint; converted weights
      have only one kind.
    resume_changes: keys or sections, joined by commas, that may differ from
      those of the run that is resumed, e.g.
      "optimizer.learning_rate,data.sources.mine.path". Naming a whole source,
      "data.sources.mine", accepts other contents, too.
  """

  schema_version: int = 3
  name: str = "run"
  seed: int = 0
  init_from: str = ""
  init_weights: Literal["ema", "params"] = "ema"
  resume_changes: str = ""
  model: ModelConfig = ModelConfig()
  data: DataConfig = dataclasses.field(default_factory=DataConfig)
  loss: DualLoss = DualLoss()
  post_training: PostTraining = PostTraining()
  optimizer: OptimizerConfig = OptimizerConfig()
  lora: LoraConfig = LoraConfig()
  captioner: CaptionerConfig = CaptionerConfig()
  mesh: MeshConfig = MeshConfig()
  train: TrainConfig = TrainConfig()
  sample: SampleConfig = SampleConfig()
  evaluate: EvaluateConfig = EvaluateConfig()
  benchmarks: BenchmarksConfig = dataclasses.field(
    default_factory=BenchmarksConfig
  )

  def __post_init__(self):
    check_choices(self)
    check_seed(self.seed)
    if self.init_from and not self.init_from.startswith(STAGE):
      # A checkpoint of adapters finds its network from any folder.
      start = local_path(self.init_from, what="init_from")
      object.__setattr__(self, "init_from", str(start))
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
    if self.lora.rank and self.train.weight_gathering == "once":
      raise ValueError(
        f"train.weight_gathering is once, but lora.rank is {self.lora.rank}: "
        "adapters are merged at each use, set it to per_use"
      )
    for name, task in self.data.tasks().items():
      if task.batch_size % self.train.num_microbatches:
        raise ValueError(
          f"data.{name}.batch_size = {task.batch_size} is not divisible by "
          f"train.num_microbatches = {self.train.num_microbatches}"
        )
    self._check_can_merge()
    self._check_post_training()
    if self.captioner.is_on:
      self._check_captioner()

  def _check_post_training(self) -> None:
    on = self.data.tasks_on()
    for name in self.post_training.parts:
      if name not in on:
        raise ValueError(
          f"post_training.{name} has a method, but the batches have no prompts "
          f"for it: set data.{name}.batch_size"
        )
      if self.loss.is_merged:
        raise ValueError(
          f"post_training.{name} has a method, and loss.is_merged needs data "
          "of both tasks: set loss.is_merged=False"
        )
    if self.loss.text_chunk and self.post_training.image_to_text.method:
      raise ValueError(
        f"loss.text_chunk is {self.loss.text_chunk}, but the bounds of "
        "post_training.image_to_text.method read all positions of a text at "
        "once: set loss.text_chunk=0"
      )

  @property
  def keeps_start(self) -> bool:
    """Whether a run keeps the weights it started from beside its own."""
    return bool(self.lora.rank or self.post_training.parts)

  def _check_captioner(self) -> None:
    features = f"captioner.features is {self.captioner.features}"
    if self.data.text_to_image.batch_size or not (
      self.data.image_to_text.batch_size
    ):
      raise ValueError(
        f"{features}, and a captioner trains on texts of images alone: set "
        "data.text_to_image.batch_size=0 and data.image_to_text.batch_size"
      )
    wrong = {
      "init_from": self.init_from,
      "lora.rank": self.lora.rank,
      "model.has_mask_embedding": self.model.has_mask_embedding,
      "post_training": self.post_training.parts,
      "benchmarks.at_validation": self.benchmarks.at_validation,
    }
    for name, value in wrong.items():
      if value:
        raise ValueError(
          f"{features}, but {name} is {value!r}, which is of D-DiT: leave it "
          "out (weights are named by captioner.features_from and decoder_from)"
        )
    if self.optimizer.kind == "muon":
      raise ValueError(
        f"{features}, and optimizer.kind=muon knows D-DiT's matrices alone: "
        "set adamw or adafactor"
      )
    if self.train.weight_gathering == "once":
      raise ValueError(
        f"{features}, whose weights are gathered at each use: set "
        "train.weight_gathering=per_use"
      )

  def _check_can_merge(self) -> None:
    if not self.loss.is_merged or len(self.data.tasks_on()) < 2:
      return
    for name, task in self.data.tasks().items():
      if task.crop == "bucket" and self.data.sources:
        raise ValueError(
          f"data.{name}.crop is bucket, and loss.is_merged needs tasks of "
          "equal shapes: set loss.is_merged=False or another crop"
        )
    sides = self.data.image_sides
    lengths = [s.text_length for s in self.data.tasks().values()]
    if len(set(sides)) > 1 or len(set(lengths)) > 1:
      raise ValueError(
        f"loss.is_merged needs tasks of equal shapes, but their images have "
        f"{sides[0]} and {sides[1]} pixels and their texts {lengths[0]} and "
        f"{lengths[1]} tokens: make them equal or set loss.is_merged=False"
      )

  @property
  def changeable_keys(self) -> tuple[str, ...]:
    """The keys in `resume_changes`."""
    keys = (key.strip() for key in self.resume_changes.split(","))
    return tuple(key for key in keys if key)

  @property
  def objective(self) -> Objective:
    """The loss of this run."""
    return CaptionLoss() if self.captioner.is_on else self.loss

  def start_of(self, workdir: pathlib.Path) -> str:
    """What the run in a workdir starts from; stages lie beside each other."""
    if not self.init_from.startswith(STAGE):
      return self.init_from
    return str(workdir.parent / self.init_from.removeprefix(STAGE))

  def for_chip(self, device_kind: str) -> "Config":
    """The config with what "chip" means spelled out, but for encoders."""
    options = compiler_options(self.train.compiler_options, device_kind)
    gathering, execution = self.train.weight_gathering, self.model.execution
    if gathering == "chip":
      is_per_use = self.lora.rank or self.captioner.is_on
      is_once = is_roomy(device_kind) and not is_per_use
      gathering = "once" if is_once else "per_use"
    if execution.remat == "chip":
      # Of the 24 blocks of 1536 features, 0.5 MiB a token are saved.
      remat = "save_all_but_qkv" if is_roomy(device_kind) else "full"
      execution = dataclasses.replace(execution, remat=remat)
    train = dataclasses.replace(
      self.train,
      compiler_options=as_setting(options),
      weight_gathering=gathering,
    )
    model = dataclasses.replace(self.model, execution=execution)
    return dataclasses.replace(self, train=train, model=model)

  def make_mesh(self, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of devices, after checking that it divides all batches.

    Args:
      devices: all of the job's if None.

    Raises:
      ValueError: devices or batch sizes do not fit.
    """
    mesh = self.mesh.make(devices)
    parts = self.train.num_microbatches
    for name, task in self.data.tasks_on().items():
      label = f"data.{name}.batch_size"
      if parts > 1:
        label += f" / train.num_microbatches ({parts})"
      check_batch_divides(mesh, task.batch_size // parts, label)
    check_batch_divides(mesh, self.data.validation_size, "data.validation_size")
    return mesh

  def make_model(
    self,
    tokenizer: Tokenizer,
    encoders: PretrainedModel | None = None,
    *,
    device_kind: str = "",
  ) -> DualModel | CaptionerModel:
    """The network between its frozen encoders, if it has any.

    Args:
      tokenizer: the text head has one row for each of its ids.
      encoders: from `open_encoders`.
      device_kind: what "chip" in `model.encoder_placement` refers to; "" for
        a chip without room.

    Raises:
      ValueError: network, encoders and image size are incompatible.
    """
    if self.captioner.is_on:
      return self._make_captioner(tokenizer, encoders, device_kind)
    model = self.model.make(
      tokenizer,
      encoders,
      max_text_length=self.data.max_text_length,
      lora=self.lora,
      min_split_bytes=self.mesh.min_split_bytes,
      device_kind=device_kind,
    )
    for shape in self.data.image_shapes:
      model.latent_shape(*shape)
    self.sample.image.check_depth(model.network.config.depth)
    return model

  def make_rollouts(
    self,
    model: DualModel,
    tokenizer: Tokenizer,
    null_tokens: Int[np.ndarray, " length"],
    mesh: Mesh,
  ) -> Rollouts | None:
    """What draws and scores in post-training; None without it.

    Raises:
      ValueError: a reward cannot be opened.
    """
    if not self.post_training.parts:
      return None
    return Rollouts(
      model,
      tokenizer,
      self.post_training,
      self.loss,
      null_tokens,
      seed=self.seed,
      mesh=mesh,
    )

  def _make_captioner(
    self,
    tokenizer: Tokenizer,
    encoders: PretrainedModel | None,
    device_kind: str,
  ) -> CaptionerModel:
    model = self.captioner.make(
      self.model,
      tokenizer,
      encoders,
      max_text_length=self.data.max_text_length,
      min_split_bytes=self.mesh.min_split_bytes,
      device_kind=device_kind,
    )
    task, side = self.data.image_to_text, self.data.image_sides[1]
    for shape in task.shapes if self.data.sources else [(side, side)]:
      model.latent_shape(*shape)
      model.check_length(*shape, task.text_length)
    return model


def default_config() -> ConfigDict:
  """The base of a config file: every key with its default."""
  return to_config_dict(Config())
