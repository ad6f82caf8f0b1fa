"""Learning-rate schedule and the AdamW chain (recipe of the paper's release).

optax is the ecosystem's optimiser library; only the composition is ours.
"""

import jax
import optax

from ddit_jax.settings import OptimizerSettings


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
  """Clip by global norm, then AdamW with decoupled weight decay.

  The null image is not decayed: it has no gradient as long as every example
  has an image, and PyTorch's AdamW (the release) skips such parameters.
  """
  return optax.chain(
    optax.clip_by_global_norm(settings.clip_norm),
    optax.adamw(
      learning_rate(settings, num_steps),
      b1=settings.beta1,
      b2=settings.beta2,
      eps=settings.epsilon,
      weight_decay=settings.weight_decay,
      mask=is_decayed,
    ),
  )


def is_decayed(params):
  """A tree of booleans: True where weight decay applies."""
  return jax.tree_util.tree_map_with_path(
    lambda path, _: "null_image" not in jax.tree_util.keystr(path), params
  )
