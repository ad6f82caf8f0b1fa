"""Noise to latents, for every model that draws."""

import functools

import jax

from ddit_jax.experiment.dual_model import DualModel
from ddit_jax.sampling.image_sampler import sample_latents


def draw_latents(
  model: DualModel,
  variables,
  texts,
  null_texts,
  noise: jax.Array,
  *,
  sigmas,
  guidance: float,
) -> jax.Array:
  """Latents of texts, guided away from the null text.

  Args:
    model: encodes texts and predicts velocities.
    variables: the weights of its parts.
    texts: ids of the prompts, as the model takes them.
    null_texts: ids of the one empty or negative prompt, batch 1.
    noise: [batch, rows, columns, channels], standard normal.
    sigmas: see `sample_latents`.
    guidance: see `sample_latents`.
  """
  # Once a prompt, not once a step.
  condition = model.condition(variables, texts)
  null = model.condition(variables, null_texts)
  return sample_latents(
    functools.partial(model.predict, variables),
    noise,
    condition,
    null[0],
    sigmas=sigmas,
    guidance=guidance,
  )
