"""Learning-rate schedule and the chain of one of three optimisers.

optax is the ecosystem's optimiser library; only the composition is ours.
"""

import jax
import optax
from optax.contrib import MuonDimensionNumbers, muon

from ddit_jax.config.settings import OptimizerSettings

# AdamW's steps have about this root mean square, so Muon's are scaled to it
# and both take the same learning rates (Liu et al. 2025, section 2.2).
_MUON_RMS = 0.2
# Adafactor keeps means in place of a second moment over two dimensions at least
# this large: SD3's heads are 64 wide, and no size has as many layers.
_SMALLEST_FACTORED = 64
# Module -> axes that a kernel sums over, and axes it gives, counted from the
# end; the others (layers; the rows q, k, v or shift, scale, gate) are matrices
# of their own.
_MUON_AXES = {
  "qkv": MuonDimensionNumbers((-4,), (-2, -1)),
  "out": MuonDimensionNumbers((-3, -2), (-1,)),
  "project": MuonDimensionNumbers((-3,), (-1,)),
  "mlp/in": MuonDimensionNumbers((-2,), (-1,)),
  "mlp/out": MuonDimensionNumbers((-2,), (-1,)),
}
_BLOCKS = ("blocks", "last_block")


def learning_rate(
  settings: OptimizerSettings, num_steps: int
) -> optax.Schedule:
  """Linear warm-up, a plateau, then the configured decay to zero."""
  peak = settings.learning_rate
  warmup = optax.linear_schedule(0.0, peak, settings.warmup_steps)
  if settings.decay == "constant":
    rest, start = optax.constant_schedule(peak), num_steps
  else:
    decay_steps = max(round(settings.decay_fraction * num_steps), 1)
    start = max(num_steps - decay_steps, settings.warmup_steps)
    span = max(num_steps - start, 1)
    if settings.decay == "linear":
      rest = optax.linear_schedule(peak, 0.0, span)
    else:
      rest = optax.cosine_decay_schedule(peak, span)
  pieces = [warmup, optax.constant_schedule(peak), rest]
  return optax.join_schedules(
    pieces, [settings.warmup_steps, max(start, settings.warmup_steps)]
  )


def make_optimizer(
  settings: OptimizerSettings, num_steps: int
) -> optax.GradientTransformation:
  """Clip by global norm, then `settings.kind` with decoupled weight decay.

  The null image is not decayed: it has no gradient as long as every example
  has an image, and PyTorch's AdamW (the release) skips such parameters.
  """
  clip = optax.clip_by_global_norm(settings.clip_norm)
  rate = learning_rate(settings, num_steps)
  if settings.kind == "adamw":
    adamw = optax.adamw(
      rate,
      b1=settings.beta1,
      b2=settings.beta2,
      eps=settings.epsilon,
      mu_dtype=_moment_dtype(settings),
      weight_decay=settings.weight_decay,
      mask=is_decayed,
    )
    return optax.chain(clip, adamw)
  descend = {"adafactor": _adafactor, "muon": _muon}[settings.kind]
  return optax.chain(
    clip,
    # Both give a step downhill, so the decay has its sign.
    descend(settings),
    optax.add_decayed_weights(-settings.weight_decay, mask=is_decayed),
    optax.scale_by_schedule(rate),
  )


def muon_axes(params):
  """Which axes of a parameter make a matrix; None where Adam is used.

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


def _adafactor(settings: OptimizerSettings) -> optax.GradientTransformation:
  """Adafactor's direction of steps whose size the learning rate alone sets."""
  return optax.adafactor(
    min_dim_size_to_factor=_SMALLEST_FACTORED,
    multiply_by_parameter_scale=False,
    momentum=settings.beta1 or None,
    dtype_momentum=settings.first_moment_dtype,
  )


def _muon(settings: OptimizerSettings) -> optax.GradientTransformation:
  """Muon's direction, and Adam's for what is no matrix of a block."""
  return muon(
    1.0,
    eps=settings.epsilon,
    mu_dtype=_moment_dtype(settings),
    adam_b1=settings.beta1,
    adam_b2=settings.beta2,
    muon_weight_dimension_numbers=muon_axes,
    consistent_rms=_MUON_RMS,
  )


def _moment_dtype(settings: OptimizerSettings) -> str | None:
  """For optax; None keeps float32 as the parameters have it."""
  is_narrow = settings.first_moment_dtype == "bfloat16"
  return settings.first_moment_dtype if is_narrow else None


def is_decayed(params):
  """A tree of booleans: True where weight decay applies."""
  return jax.tree_util.tree_map_with_path(
    lambda path, _: "null_image" not in jax.tree_util.keystr(path), params
  )
