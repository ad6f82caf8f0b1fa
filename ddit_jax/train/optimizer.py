"""Learning-rate schedule and the optax chain of one of three optimizers."""

import dataclasses
from typing import Literal

import jax
import optax
from optax.contrib import MuonDimensionNumbers, muon

from ddit_jax.errors import check_choices
from ddit_jax.train.state import MAX_TRAIN_STEPS

# AdamW's steps have about this root mean square, so Muon's are scaled to it
# and both take the same learning rates (Liu et al. 2025, section 2.2).
_MUON_RMS = 0.2
# Adafactor keeps means in place of a second moment over two dimensions at least
# this large: SD3's heads are 64 wide, and no size has as many layers.
_SMALLEST_FACTORED = 64
# Module -> axes that a kernel sums over, and axes it gives, counted from the
# end; the others (layers; the rows q, k, v or shift, scale, gate) are separate
# matrices.
_MUON_AXES = {
  "qkv": MuonDimensionNumbers((-4,), (-2, -1)),
  "out": MuonDimensionNumbers((-3, -2), (-1,)),
  "project": MuonDimensionNumbers((-3,), (-1,)),
  "mlp/in": MuonDimensionNumbers((-2,), (-1,)),
  "mlp/out": MuonDimensionNumbers((-2,), (-1,)),
}
_BLOCKS = ("blocks", "last_block")


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
  """An optimizer with warm-up, clipping by global norm, and a decay to zero.

  Attributes:
    kind: "adamw" (paper); "adafactor", whose second moment is kept as means
      over rows and columns; or "muon", which orthogonalises the steps of the
      blocks' matrices and leaves the rest to Adam. Learning rates mean about
      the same in all three.
    first_moment_dtype: "float32", or "bfloat16" for a quarter less memory of
      the optimizer; beta1 is then rounded, too (0.9 to 0.8984). The second
      moment stays float32.
    learning_rate: after warm-up.
    warmup_steps: linear warm-up from 0.
    decay: "constant", or "linear" / "cosine" to 0 at the last step.
    decay_fraction: fraction of all steps, at the end, over which it decays.
    beta1, beta2, epsilon: of AdamW and of Muon's Adam (Muon's own momentum is
      0.95). Adafactor keeps a first moment if beta1 is not 0, and has its own
      schedule in place of beta2 and epsilon.
    weight_decay: on every parameter but the null image, decoupled.
    clip_norm: largest global gradient norm; larger ones are scaled to it.
    ema_decay: largest decay of the EMA; at step i it is
      min(ema_decay, (1 + i) / (10 + i)).
  """

  kind: Literal["adamw", "adafactor", "muon"] = "adamw"
  first_moment_dtype: Literal["float32", "bfloat16"] = "float32"
  learning_rate: float = 5e-5
  warmup_steps: int = 5000
  decay: Literal["constant", "linear", "cosine"] = "constant"
  decay_fraction: float = 1.0
  beta1: float = 0.9
  beta2: float = 0.999
  epsilon: float = 1e-8
  weight_decay: float = 1e-2
  clip_norm: float = 2.0
  ema_decay: float = 0.9999

  def __post_init__(self):
    check_choices(self)
    for name in ("learning_rate", "epsilon", "clip_norm", "decay_fraction"):
      if getattr(self, name) <= 0:
        raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
    for name in ("beta1", "beta2", "ema_decay"):
      if not 0 <= getattr(self, name) < 1:
        raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")
    if (
      self.kind == "adafactor"
      and not self.beta1
      and self.first_moment_dtype != "float32"
    ):
      raise ValueError(
        "first_moment_dtype is bfloat16, but adafactor with beta1 = "
        "0 keeps no first moment: leave it float32, or set beta1"
      )
    if self.decay_fraction > 1:
      raise ValueError(f"decay_fraction is over 1: {self.decay_fraction}")
    for name in ("warmup_steps", "weight_decay"):
      if getattr(self, name) < 0:
        raise ValueError(f"{name} is negative: {getattr(self, name)}")
    if self.warmup_steps > MAX_TRAIN_STEPS:
      raise ValueError(
        f"warmup_steps must be at most {MAX_TRAIN_STEPS}, got "
        f"{self.warmup_steps}"
      )

  def schedule(self, num_steps: int) -> optax.Schedule:
    """Linear warm-up, a plateau, then the configured decay to zero."""
    peak = self.learning_rate
    warmup = optax.linear_schedule(0.0, peak, self.warmup_steps)
    if self.decay == "constant":
      rest, start = optax.constant_schedule(peak), num_steps
    else:
      decay_steps = max(round(self.decay_fraction * num_steps), 1)
      start = max(num_steps - decay_steps, self.warmup_steps)
      span = max(num_steps - start, 1)
      if self.decay == "linear":
        rest = optax.linear_schedule(peak, 0.0, span)
      else:
        rest = optax.cosine_decay_schedule(peak, span)
    return optax.join_schedules(
      [warmup, optax.constant_schedule(peak), rest],
      [self.warmup_steps, max(start, self.warmup_steps)],
    )

  def make(self, num_steps: int) -> optax.GradientTransformation:
    """Clip by global norm, then `kind` with decoupled weight decay.

    The null image is not decayed: it has no gradient as long as every example
    has an image, and PyTorch's AdamW (the release) skips such parameters.
    """
    clip = optax.clip_by_global_norm(self.clip_norm)
    rate = self.schedule(num_steps)
    if self.kind == "adamw":
      adamw = optax.adamw(
        rate,
        b1=self.beta1,
        b2=self.beta2,
        eps=self.epsilon,
        mu_dtype=self._moment_dtype,
        weight_decay=self.weight_decay,
        mask=is_decayed,
      )
      return optax.chain(clip, adamw)
    return optax.chain(
      clip,
      self._adafactor() if self.kind == "adafactor" else self._muon(),
      # The updates already point downhill, so the decay has their sign.
      optax.add_decayed_weights(-self.weight_decay, mask=is_decayed),
      optax.scale_by_schedule(rate),
    )

  def _adafactor(self) -> optax.GradientTransformation:
    """Adafactor's updates, whose size the learning rate alone sets."""
    return optax.adafactor(
      min_dim_size_to_factor=_SMALLEST_FACTORED,
      multiply_by_parameter_scale=False,
      momentum=self.beta1 or None,
      dtype_momentum=self.first_moment_dtype,
    )

  def _muon(self) -> optax.GradientTransformation:
    """Muon's updates of the blocks' matrices, Adam's of everything else."""
    return muon(
      1.0,
      eps=self.epsilon,
      mu_dtype=self._moment_dtype,
      adam_b1=self.beta1,
      adam_b2=self.beta2,
      muon_weight_dimension_numbers=muon_axes,
      consistent_rms=_MUON_RMS,
    )

  @property
  def _moment_dtype(self) -> str | None:
    """The dtype for optax; None keeps the parameters' float32."""
    is_narrow = self.first_moment_dtype == "bfloat16"
    return self.first_moment_dtype if is_narrow else None


def muon_axes(params):
  """The axes of a parameter that form a matrix; None where Adam is used.

  The matrices inside the blocks are Muon's; embeddings, heads, biases and
  scales are Adam's, as its authors advise.
  """

  def axes_of(path, leaf):
    del leaf
    names = [key.key for key in path]
    if names[0] not in _BLOCKS or names[-1] != "kernel":
      return None
    *_, parent, module, _ = names
    return _MUON_AXES[f"mlp/{module}" if parent == "mlp" else module]

  return jax.tree_util.tree_map_with_path(axes_of, params)


def is_decayed(params):
  """A tree of booleans: True where weight decay applies."""
  return jax.tree_util.tree_map_with_path(
    lambda path, _: "null_image" not in jax.tree_util.keystr(path), params
  )
