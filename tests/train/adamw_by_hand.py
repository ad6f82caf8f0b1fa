"""AdamW as its paper and PyTorch define it, in slow numpy."""

import math

import numpy as np


def adamw_by_hand(
  params, gradients, settings, decayed, *, moment_dtype=np.float64
):
  """PyTorch's clip_grad_norm_ and AdamW with linear warm-up, in float64.

  Args:
    params: name -> array.
    gradients: one such dict an update.
    settings: an `OptimizerConfig` with constant rate after the warm-up.
    decayed: names under weight decay.
    moment_dtype: in which first moments are kept from update to update, and
      multiplied by beta1, as optax does.
  """
  params = {k: v.astype(np.float64) for k, v in params.items()}
  first = {k: np.zeros_like(v) for k, v in params.items()}
  second = {k: np.zeros_like(v) for k, v in params.items()}
  for index, grads in enumerate(gradients):
    rate = settings.learning_rate * min(index / settings.warmup_steps, 1.0)
    norm = math.sqrt(sum(np.square(g).sum() for g in grads.values()))
    factor = min(1.0, settings.clip_norm / norm)
    for name, value in params.items():
      g = factor * grads[name]
      kept = np.asarray(settings.beta1, moment_dtype) * first[name].astype(
        moment_dtype
      )
      first[name] = kept.astype(np.float64) + (1 - settings.beta1) * g
      second[name] = (
        settings.beta2 * second[name] + (1 - settings.beta2) * g * g
      )
      mean = first[name] / (1 - settings.beta1 ** (index + 1))
      spread = np.sqrt(second[name] / (1 - settings.beta2 ** (index + 1)))
      change = mean / (spread + settings.epsilon)
      if name in decayed:
        change = change + settings.weight_decay * value
      params[name] = value - rate * change
  return params
