"""The `post_training` section of a config."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar, Literal

from ddit_jax.errors import check_choices
from ddit_jax.losses.diffusion_dpo import DiffusionDpo
from ddit_jax.losses.diffusion_nft import DiffusionNft
from ddit_jax.losses.espo import Espo
from ddit_jax.losses.vrpo import Vrpo
from ddit_jax.post_training.rewards import (
  IMAGE_REWARDS,
  TEXT_REWARDS,
  Reward,
  open_reward,
)
from ddit_jax.sampling.image_sampler import ImageSampling
from ddit_jax.sampling.text_options import TextSampling

# Methods that train on draws with rewards, the others on pairs of the data.
DRAWING = ("nft", "espo", "vrpo")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RewardsConfig:
  """What one modality's draws are worth.

  Attributes:
    rewards: names of the modality's rewards in `post_training.rewards`, or
      "module:function" of your own, installed or in the current folder.
    reward_weights: of their advantages; () weighs all alike.
    measured: more rewards, which are logged and not trained on; of methods on
      pairs of the data, those of held-out prompts.
    group_size: draws for each prompt of the batch, which are compared.
  """

  known: ClassVar[Mapping[str, Reward]] = {}

  rewards: tuple[str, ...] = ()
  reward_weights: tuple[float, ...] = ()
  measured: tuple[str, ...] = ()
  group_size: int = 8

  def __post_init__(self):
    names = self.rewards + self.measured
    if len(set(names)) < len(names):
      raise ValueError(f"rewards and measured name one twice: {names}")
    if len(self.reward_weights) not in (0, len(self.rewards)):
      raise ValueError(
        f"reward_weights are {self.reward_weights} for the rewards "
        f"{self.rewards}: give one each, or ()"
      )
    if self.group_size < 2:
      raise ValueError(
        f"group_size is {self.group_size}: advantages compare at least 2 draws"
      )

  def open(self) -> dict[str, Reward]:
    """All rewards by name, first those that are trained on.

    Raises:
      InputError: one of them cannot be opened.
    """
    names = self.rewards + self.measured
    return {name: open_reward(name, self.known) for name in names}

  @property
  def weights(self) -> tuple[float, ...]:
    """A weight for each reward, 0 for those that are only measured."""
    given = self.reward_weights or (1.0,) * len(self.rewards)
    return given + (0.0,) * len(self.measured)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImagePolicy(RewardsConfig):
  """Post-training of the image stream.

  Attributes:
    method: "" trains it on its data; "nft" on rewards of its own images; "dpo"
      on preference pairs of its data.
    sampling: how images are drawn.
    nft: the loss of "nft".
    dpo: the loss of "dpo".
  """

  known = IMAGE_REWARDS

  method: Literal["", "nft", "dpo"] = ""
  sampling: ImageSampling = ImageSampling(
    num_inference_steps=10, guidance_scale=1.0, shift=1.0
  )
  nft: DiffusionNft = DiffusionNft()
  dpo: DiffusionDpo = DiffusionDpo()

  def __post_init__(self):
    check_choices(self)
    RewardsConfig.__post_init__(self)
    _check_has_rewards(self)
    if self.sampling.is_guided:
      raise ValueError(
        f"sampling.guidance_scale is {self.sampling.guidance_scale}, but what "
        "is trained is the unguided velocity: set it to 1"
      )

  @property
  def kl_weight(self) -> float:
    """Of the distance to the reference, which DPO's own loss holds."""
    return self.nft.kl_weight if self.method == "nft" else 0.0

  @property
  def needs_reference(self) -> bool:
    """Whether its loss reads the reference."""
    return self.method == "dpo" or self.kl_weight > 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextPolicy(RewardsConfig):
  """Post-training of the text stream.

  Attributes:
    method: "" trains it on its data; "espo" on rewards of its own texts; "vrpo"
      on pairs of them, the best and the worst of a prompt; "vrpo_pairs" on
      preference pairs of its data.
    sampling: how texts are drawn.
    num_passes: network passes for the bound of a text, an even number.
    espo: the loss of "espo".
    vrpo: the loss of "vrpo" and "vrpo_pairs".
  """

  known = TEXT_REWARDS

  method: Literal["", "espo", "vrpo", "vrpo_pairs"] = ""
  sampling: TextSampling = TextSampling()
  num_passes: int = 4
  espo: Espo = Espo()
  vrpo: Vrpo = Vrpo()

  def __post_init__(self):
    check_choices(self)
    RewardsConfig.__post_init__(self)
    _check_has_rewards(self)
    if self.num_passes < 2 or self.num_passes % 2:
      raise ValueError(f"num_passes must be even, got {self.num_passes}")
    if self.sampling.canvas_length or self.sampling.drops_finished_rows:
      raise ValueError(
        "sampling.canvas_length and sampling.drops_finished_rows change the "
        "shape of a batch that is being drawn: leave them out"
      )
    self._check_draws()

  def _check_draws(self) -> None:
    sampling = self.sampling
    if sampling.guidance_scale != 1:
      raise ValueError(
        f"sampling.guidance_scale is {sampling.guidance_scale}, but what is "
        "trained are the unguided texts: set it to 1"
      )
    if self.method in DRAWING and sampling.is_deterministic:
      raise ValueError(
        f"sampling.temperature is 0 and its order {sampling.order!r}, so all "
        "draws of a prompt are the same text: set a temperature"
      )

  @property
  def kl_weight(self) -> float:
    """Of the distance to the reference, which VRPO's own loss holds."""
    return self.espo.kl_weight if self.method == "espo" else 0.0

  @property
  def needs_reference(self) -> bool:
    """Whether its loss reads the reference."""
    return self.method in ("vrpo", "vrpo_pairs") or self.kl_weight > 0


def _check_has_rewards(part: "ImagePolicy | TextPolicy") -> None:
  is_drawn = part.method in DRAWING
  if is_drawn and not part.rewards:
    raise ValueError(f"method is {part.method!r}, which needs rewards")
  if part.rewards and not is_drawn:
    raise ValueError(
      f"rewards are {part.rewards}, but the method {part.method!r} trains on "
      "none: leave them out"
    )
  if part.measured and not part.method:
    raise ValueError(
      f"measured is {part.measured}, but method is '': leave it out"
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PostTraining:
  """Training on rewards instead of data; off unless a task has a method.

  The batches' texts and images are prompts then. The policy that draws is the
  EMA of the trained weights (`optimizer.ema_decay`), the reference the weights
  that the run started from.

  Attributes:
    text_to_image: of the image stream.
    image_to_text: of the text stream.
    max_falls_in_row: validations in a row at which a held-out reward may lie
      below its best one, beyond both intervals, while the training reward has
      risen since; one more stops the run. 0 never does.
  """

  text_to_image: ImagePolicy = ImagePolicy()
  image_to_text: TextPolicy = TextPolicy()
  max_falls_in_row: int = 0

  def __post_init__(self):
    if self.max_falls_in_row < 0:
      raise ValueError(f"max_falls_in_row is negative: {self.max_falls_in_row}")
    has_rewards = any(part.rewards for part in self.parts.values())
    if self.max_falls_in_row and not has_rewards:
      raise ValueError(
        f"max_falls_in_row is {self.max_falls_in_row}, but no method trains on "
        "rewards, which would have to rise: leave it out"
      )

  @property
  def needs_reference(self) -> bool:
    """Whether the weights that the run started from are kept beside its own."""
    return any(part.needs_reference for part in self.parts.values())

  @property
  def parts(self) -> dict[str, "ImagePolicy | TextPolicy"]:
    """The tasks that have a method."""
    found = {
      "text_to_image": self.text_to_image,
      "image_to_text": self.image_to_text,
    }
    return {task: part for task, part in found.items() if part.method}
