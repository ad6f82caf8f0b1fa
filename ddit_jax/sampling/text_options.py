"""The text sampler's config, and named settings of it."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from ddit_jax.errors import check_choices
from ddit_jax.sampling.image_sampler import MAX_STEPS
from ddit_jax.sampling.text_planners import ORDERS, Order, Planner

# Each preset's fields; docs/text_sampling.md has what they cost and give.
PRESETS: Mapping[str, Mapping[str, Any]] = {
  # The paper's sampler with its published numbers of steps.
  "short_answer": {"order": "ancestral", "num_steps": 16},
  "long_answer": {"order": "ancestral", "num_steps": 256},
  "caption": {"order": "ancestral", "num_steps": 64},
  # Its law with fewer calls, and approximations with still fewer.
  "exact": {"order": "ancestral", "num_steps": 64, "num_drafts": 4},
  "fast": {"order": "threshold", "threshold": 0.9, "temperature": 0.0},
  "turbo": {"order": "threshold", "threshold": 0.5, "temperature": 0.0},
}
_MAX_DRAFTS = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextSampling:
  """Config of the text sampler: in which order tokens are revealed, and how.

  "ancestral" and "first_hitting" have the law of the paper's sampler, all other
  orders approximate it (docs/text_sampling.md).

  Attributes:
    preset: a name of `PRESETS`, whose values its fields take; "" for none.
    order: which masked positions take their token after a network call.
      "ancestral": those of its next time step, of `num_steps` equal ones (eq.
      5). "first_hitting": one, in random order; the limit of many steps.
      "confidence", "margin", "entropy": those whose drawn token is most
      probable, whose best two tokens differ most in probability, or whose
      prediction has the least entropy; equally many at each step. "threshold":
      all whose drawn token is at least as probable as `threshold`, and the most
      probable. "entropy_bound": in order of confidence, while the entropies
      less the largest sum up to at most `max_entropy`. "remasking": as
      "ancestral", and each revealed token is masked again with the probability
      `remask_probability` (ReMDM).
    num_steps: T of "ancestral" and "remasking"; steps of "confidence", "margin"
      and "entropy". Steps that would reveal nothing are not computed.
    tokens_per_step: if positive, "confidence", "margin" and "entropy" reveal so
      many at a step, instead of their share of `num_steps`.
    temperature: divides the logits of the draw; 0 takes the most likely token.
    top_p: draws among the most likely tokens that have this probability
      together, in (0, 1].
    threshold: a probability of the order "threshold", in (0, 1].
    max_entropy: in nats, of the order "entropy_bound".
    choice_temperature: of Gumbel noise that is added to what "confidence",
      "margin" and "entropy" go by, and falls to 0 with the masked share
      (MaskGIT); 0 for none.
    remask_probability: the largest, of the order "remasking", in [0, 1].
    block_length: reveals blocks of so many masked positions from left to right
      (semi-autoregressive); 0 is one block.
    num_drafts: states that a network call looks at: the present one, and those
      that would follow if its predictions stayed. As many steps are taken as
      come out as drafted, so the tokens are those of 1, with fewer calls of
      larger batches.
    guidance_scale: g of logits l_null + g (l - l_null), where l_null sees no
      image; 1 is no guidance.
    image_refresh_interval: network calls that use the image's keys and values
      of the first of them; 1 computes them at every call.
    stops_at_end: True finishes a text when its end token and all before are
      known, which changes no text that is cut there. Texts with a given token
      behind the end go on, and the order "remasking".
    canvas_length: tokens of the first canvas, doubled until the text ends; 0 is
      the whole text.
    drops_finished_rows: True takes finished texts out of the batch whenever
      half of it is done. Each size of batch compiles once.
  """

  preset: Literal[
    "", "exact", "fast", "turbo", "short_answer", "long_answer", "caption"
  ] = ""
  order: Order = "ancestral"
  num_steps: int = 16
  tokens_per_step: int = 0
  temperature: float = 1.0
  top_p: float = 1.0
  threshold: float = 0.9
  max_entropy: float = 0.1
  choice_temperature: float = 0.0
  remask_probability: float = 0.1
  block_length: int = 0
  num_drafts: int = 1
  guidance_scale: float = 1.0
  image_refresh_interval: int = 1
  stops_at_end: bool = True
  canvas_length: int = 0
  drops_finished_rows: bool = False

  def __post_init__(self):
    check_choices(self)
    self._take_preset()
    for name, largest in _LARGEST.items():
      least = int(name in _AT_LEAST_ONE)
      if not least <= getattr(self, name) <= largest:
        raise ValueError(
          f"{name} must be in {least} to {largest}, got {getattr(self, name)}"
        )
    for name in ("temperature", "max_entropy", "choice_temperature"):
      # Also refuses NaN.
      if not getattr(self, name) >= 0:
        raise ValueError(f"{name} is negative: {getattr(self, name)}")
    for name in ("top_p", "threshold"):
      if not 0 < getattr(self, name) <= 1:
        raise ValueError(f"{name} must be in (0, 1], got {getattr(self, name)}")
    if not 0 <= self.remask_probability <= 1:
      raise ValueError(
        f"remask_probability must be in [0, 1], got {self.remask_probability}"
      )
    self._check_together()

  def _take_preset(self) -> None:
    defaults = {f.name: f.default for f in dataclasses.fields(self)}
    for name, value in PRESETS.get(self.preset, {}).items():
      given = getattr(self, name)
      if given not in (value, defaults[name]):
        raise ValueError(
          f"{name} is {given!r}, but the preset {self.preset!r} sets {value!r}:"
          " leave one of them out"
        )
      object.__setattr__(self, name, value)

  def _check_together(self) -> None:
    if self.num_drafts > 1 and not self.has_fixed_noise:
      raise ValueError(
        f"num_drafts is {self.num_drafts}, but the order {self.order!r} draws "
        "anew at each step: set temperature=0 or num_drafts=1"
      )
    if self.num_drafts > 1 and self.image_refresh_interval > 1:
      raise ValueError(
        f"num_drafts is {self.num_drafts}, which gives the tokens of one state "
        f"a call, and image_refresh_interval is {self.image_refresh_interval}, "
        "which does not: set one of them to 1"
      )
    has_blocks = self.block_length or self.canvas_length
    if has_blocks and not self.planner.keeps_tokens:
      raise ValueError(
        f"order is {self.order!r}, which masks tokens of a block again: set "
        "block_length=0 and canvas_length=0"
      )

  @property
  def planner(self) -> Planner:
    """Decides which positions change after a network call."""
    return ORDERS[self.order](self)

  @property
  def has_fixed_noise(self) -> bool:
    """Whether a position's draw has the same noise at every step."""
    return self.temperature == 0 or self.planner.has_fixed_noise

  @property
  def is_deterministic(self) -> bool:
    """True if nothing is drawn, neither tokens nor their order."""
    return self.temperature == 0 and self.planner.is_deterministic


_LARGEST = {
  "num_steps": MAX_STEPS,
  "num_drafts": _MAX_DRAFTS,
  "tokens_per_step": MAX_STEPS,
  "block_length": 2**20,
  "canvas_length": 2**20,
  "image_refresh_interval": MAX_STEPS,
}
_AT_LEAST_ONE = ("num_steps", "num_drafts", "image_refresh_interval")
