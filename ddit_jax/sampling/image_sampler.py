"""Text to image: Euler steps with classifier-free guidance (section 3.4)."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from ddit_jax.diffusion.flow_matching import classifier_free_guidance
from ddit_jax.sharding.rules import constrain

# Far above any use; a mistyped number would run for years.
MAX_STEPS = 10_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageSampling:
  """Config of the Euler sampler, with the names of diffusers.

  Attributes:
    num_inference_steps: Euler steps.
    guidance_scale: g of eq. 10; 1 is no guidance.
    shift: SD3's resolution shift of the grid of times; 1 leaves it uniform.
    num_train_timesteps: steps of the training grid, whose smallest sigma the
      shifted grid ends with.
  """

  num_inference_steps: int = 28
  guidance_scale: float = 7.0
  shift: float = 3.0
  num_train_timesteps: int = 1000

  def __post_init__(self):
    for name in ("num_inference_steps", "shift", "num_train_timesteps"):
      if getattr(self, name) <= 0:
        raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
    if self.num_inference_steps > MAX_STEPS:
      raise ValueError(
        f"num_inference_steps must be at most {MAX_STEPS}, got "
        f"{self.num_inference_steps}"
      )

  def sigmas(self) -> Float[np.ndarray, " grid"]:
    """Descending times 1, ..., 0 of an Euler solver, float32.

    With shift 1 the grid is uniform. Otherwise it is SD3's: a linear grid
    from 1 to the shifted smallest training sigma, shifted again, then 0; so
    the last non-zero time does not depend on the number of steps.
    """
    num_steps, num_train = self.num_inference_steps, self.num_train_timesteps
    if self.shift == 1:
      return np.linspace(1, 0, num_steps + 1, dtype=np.float32)
    smallest = self._shifted(1 / num_train)
    grid = np.linspace(num_train, smallest * num_train, num_steps)
    return np.append(self._shifted(grid / num_train), 0.0).astype(np.float32)

  def _shifted(self, sigma):
    return self.shift * sigma / (1 + (self.shift - 1) * sigma)


def sample_latents(
  predict,
  noise: Float[Array, "batch height width channels"],
  condition: Shaped[Array, "batch length *features"],
  null_condition: Shaped[Array, "length *features"],
  *,
  sigmas: Float[Array | np.ndarray, " grid"],
  guidance_scale: float,
) -> Float[Array, "batch height width channels"]:
  """Integrates from noise at sigma 1 to latents at sigma 0.

  The network sees unconditional and conditional inputs in one batch.

  Args:
    predict: (latents, condition, sigma) -> object with `.velocity`.
    noise: standard normal.
    condition: the prompts, as token ids or a text encoder's features.
    null_condition: the empty (or negative) prompt.
    sigmas: descending times, first 1 and last 0; see
      `ImageSampling.sigmas`.
    guidance_scale: g of eq. 10; 1 skips the unconditional half.

  Returns:
    float32 latents.
  """
  batch = noise.shape[0]
  is_guided = guidance_scale != 1.0
  if is_guided:
    nulls = jnp.broadcast_to(null_condition[None], condition.shape)
    condition = _interleave(nulls, condition)

  def step(latents, times):
    sigma, next_sigma = times
    inputs = _interleave(latents, latents) if is_guided else latents
    time = jnp.full((inputs.shape[0],), sigma)
    velocity = predict(inputs, condition, time).velocity.astype(jnp.float32)
    if is_guided:
      pair = velocity.reshape(batch, 2, *velocity.shape[1:])
      velocity = classifier_free_guidance(
        pair[:, 1], pair[:, 0], guidance_scale
      )
    return latents + (next_sigma - sigma) * velocity, None

  sigmas = jnp.asarray(sigmas)
  pairs = (sigmas[:-1], sigmas[1:])
  return jax.lax.scan(step, noise.astype(jnp.float32), pairs)[0]


def _interleave(
  first: Shaped[Array, "batch *rest"], second: Shaped[Array, "batch *rest"]
) -> Shaped[Array, "2*batch *rest"]:
  """Alternates rows of both, so that a sharded batch stays on its devices."""
  stacked = jnp.stack([first, second], axis=1)
  joined = stacked.reshape(2 * first.shape[0], *first.shape[1:])
  return constrain(joined, "batch", *(None,) * (first.ndim - 1))


def generate_latents(
  model,
  variables,
  texts,
  null_texts,
  noise: Float[Array, "batch height width channels"],
  *,
  sampling: ImageSampling,
) -> Float[Array, "batch height width channels"]:
  """Samples latents for token ids.

  Args:
    model: with `condition` and `predict`, see `experiment.model.DualModel`.
    variables: variables of the model's parts.
    texts: ids of the prompts, as the model takes them.
    null_texts: ids of the empty or negative prompt, batch 1.
    noise: standard normal.
    sampling: the sampler's config.
  """
  # Once per prompt, not once per step.
  condition = model.condition(variables, texts)
  null = model.condition(variables, null_texts)
  return sample_latents(
    functools.partial(model.predict, variables),
    noise,
    condition,
    null[0],
    sigmas=sampling.sigmas(),
    guidance_scale=sampling.guidance_scale,
  )
