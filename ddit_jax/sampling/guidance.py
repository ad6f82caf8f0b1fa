"""Guidance: how the velocities with and without the prompt are combined."""

import dataclasses
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

from ddit_jax.diffusion.flow_matching import classifier_free_guidance
from ddit_jax.errors import check_choices

_Velocity = Float[Array, "batch height width channels"]
# The inputs of a call: the empty (or negative) prompt, the prompt, and the
# prompt with some blocks left out.
Branch = Literal["null", "text", "skip"]
# Keeps a quotient finite, as in diffusers.
_TINY = 1e-8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Guidance:
  """Guidance with the names of diffusers' guiders and of its SD3 pipeline.

  Attributes:
    guidance_scale: g of eq. 10; 1 is no guidance.
    guider: "cfg" is eq. 10; "cfg_zero_star" scales the unconditional velocity
      to the conditional one's projection on it (CFG-Zero*, arXiv:2503.18886);
      "apg" shortens the difference of both and weighs its part along the
      conditional velocity (adaptive projected guidance, arXiv:2410.02416).
    guidance_start: share of the steps before which there is no guidance.
    guidance_stop: share of the steps from which there is none.
    guidance_rescale: share of the guided velocity that is rescaled to the
      standard deviation of the conditional one (arXiv:2305.08891, section
      3.4), in [0, 1].
    zero_init_steps: first steps whose velocity is zero; "cfg_zero_star" alone.
    apg_norm_threshold: largest norm of the difference; "apg" alone, 0 for any.
    apg_eta: weight of the parallel part of the difference; "apg" alone.
    skip_guidance_layers: blocks, from 0, that skip-layer guidance leaves out
      of a third prediction, which is pushed away from; none turns it off.
    skip_layer_guidance_scale: of that push.
    skip_layer_guidance_start: share of the steps after which it begins.
    skip_layer_guidance_stop: share of the steps before which it ends.
  """

  guidance_scale: float = 7.0
  guider: Literal["cfg", "cfg_zero_star", "apg"] = "cfg"
  guidance_start: float = 0.0
  guidance_stop: float = 1.0
  guidance_rescale: float = 0.0
  zero_init_steps: int = 1
  apg_norm_threshold: float = 15.0
  apg_eta: float = 1.0
  skip_guidance_layers: tuple[int, ...] = ()
  skip_layer_guidance_scale: float = 2.8
  skip_layer_guidance_start: float = 0.01
  skip_layer_guidance_stop: float = 0.2

  def __post_init__(self):
    check_choices(self)
    _check_window(self, "guidance_start", "guidance_stop")
    _check_window(self, "skip_layer_guidance_start", "skip_layer_guidance_stop")
    if not 0 <= self.guidance_rescale <= 1:
      raise ValueError(
        f"guidance_rescale must be in 0 to 1, got {self.guidance_rescale}"
      )
    for name in ("zero_init_steps", "apg_norm_threshold"):
      if getattr(self, name) < 0:
        raise ValueError(f"{name} is negative: {getattr(self, name)}")
    if self.skip_guidance_layers and not self.is_guided:
      raise ValueError(
        f"skip_guidance_layers is {self.skip_guidance_layers} without "
        "guidance: set guidance_scale to another value than 1"
      )

  @property
  def is_guided(self) -> bool:
    """Whether the null prompt is used."""
    return self.guidance_scale != 1.0

  def check_depth(self, depth: int) -> None:
    """Raises ValueError if a network of `depth` blocks lacks a skipped one."""
    for layer in self.skip_guidance_layers:
      if not 0 <= layer < depth:
        raise ValueError(
          f"skip_guidance_layers has block {layer}, but this network's are 0 "
          f"to {depth - 1}"
        )

  def branches(self, step: int, num_steps: int) -> tuple[Branch, ...]:
    """What the network is asked at a step; () needs no call."""
    if self.guider == "cfg_zero_star" and step < self.zero_init_steps:
      return ()
    first = int(self.guidance_start * num_steps)
    last = int(self.guidance_stop * num_steps)
    if not self.is_guided or not first <= step < last:
      return ("text",)
    first = self.skip_layer_guidance_start * num_steps
    last = self.skip_layer_guidance_stop * num_steps
    if self.skip_guidance_layers and first < step < last:
      return ("null", "text", "skip")
    return ("null", "text")

  def combined(self, velocities: dict[Branch, _Velocity]) -> _Velocity:
    """The guided velocity of the branches of one step."""
    text = velocities["text"]
    if "null" not in velocities:
      return text
    guided = self._guided(text, velocities["null"])
    if "skip" in velocities:
      push = text - velocities["skip"]
      guided = guided + self.skip_layer_guidance_scale * push
    if self.guidance_rescale:
      ratio = _deviation(text) / _deviation(guided)
      share = self.guidance_rescale
      guided = share * (guided * ratio) + (1 - share) * guided
    return guided

  def _guided(self, text: _Velocity, null: _Velocity) -> _Velocity:
    if self.guider == "cfg_zero_star":
      null = null * _dot(text, null) / (_dot(null, null) + _TINY)
    elif self.guider == "apg":
      return null + self.guidance_scale * self._projected(text - null, text)
    return classifier_free_guidance(text, null, self.guidance_scale)

  def _projected(self, change: _Velocity, text: _Velocity) -> _Velocity:
    """The difference, shortened, with its parallel part weighed."""
    if self.apg_norm_threshold:
      norm = jnp.sqrt(_dot(change, change))
      change = change * jnp.minimum(1.0, self.apg_norm_threshold / norm)
    parallel = text * _dot(change, text) / _dot(text, text)
    return change + (self.apg_eta - 1) * parallel


def _check_window(part: Guidance, first: str, last: str) -> None:
  start, stop = getattr(part, first), getattr(part, last)
  if not 0 <= start <= stop <= 1:
    raise ValueError(
      f"{first} and {last} must be shares of the steps, 0 <= start <= stop <= "
      f"1, got {start} and {stop}"
    )


def _dot(a: _Velocity, b: _Velocity) -> Float[Array, "batch 1 1 1"]:
  return jnp.sum(a * b, axis=(1, 2, 3), keepdims=True)


def _deviation(velocity: _Velocity) -> Float[Array, "batch 1 1 1"]:
  return jnp.std(velocity, axis=(1, 2, 3), keepdims=True)
