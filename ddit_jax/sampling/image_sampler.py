"""Text to image: Euler's method with guidance (paper section 3.4)."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from ddit_jax.diffusion.flow_matching import classifier_free_guidance
from ddit_jax.sharding.rules import constrain


def sample_latents(
  predict,
  noise: Float[Array, "batch height width channels"],
  condition: Shaped[Array, "batch length *features"],
  null_condition: Shaped[Array, "length *features"],
  *,
  sigmas: Float[Array, " grid"],
  guidance: float,
) -> Float[Array, "batch height width channels"]:
  """Integrates from noise at sigma 1 to latents at sigma 0.

  Both halves of the guidance go through the network in one batch, the
  unconditional one first.

  Args:
    predict: (latents, condition, sigma) -> object with `.velocity`.
    noise: standard normal draws, float32.
    condition: the prompts, as token ids or as a text encoder's features.
    null_condition: the empty (or negative) prompt.
    sigmas: descending times, first 1 and last 0; see
      `FlowMatching.sampling_sigmas`.
    guidance: scale g of eq. 10; 1 leaves the unconditional half out.

  Returns:
    float32 latents.
  """
  batch = noise.shape[0]
  is_guided = guidance != 1.0
  if is_guided:
    nulls = jnp.broadcast_to(null_condition, condition.shape)
    condition = _interleave(nulls, condition)

  def step(latents, times):
    sigma, next_sigma = times
    inputs = _interleave(latents, latents) if is_guided else latents
    time = jnp.full((inputs.shape[0],), sigma)
    velocity = predict(inputs, condition, time).velocity.astype(jnp.float32)
    if is_guided:
      pair = velocity.reshape(batch, 2, *velocity.shape[1:])
      velocity = classifier_free_guidance(pair[:, 1], pair[:, 0], guidance)
    return latents + (next_sigma - sigma) * velocity, None

  sigmas = jnp.asarray(sigmas)
  pairs = (sigmas[:-1], sigmas[1:])
  return jax.lax.scan(step, noise.astype(jnp.float32), pairs)[0]


def _interleave(first: jax.Array, second: jax.Array) -> jax.Array:
  """Rows of both in turn: a split batch stays on its devices."""
  stacked = jnp.stack([first, second], axis=1)
  joined = stacked.reshape(2 * first.shape[0], *first.shape[1:])
  return constrain(joined, "batch", *(None,) * (first.ndim - 1))


def draw_latents(
  model,
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
    model: with `condition` and `predict`, see `experiment.model.DualModel`.
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
