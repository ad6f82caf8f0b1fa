"""Likelihoods of texts and images, estimated with their standard errors."""

import dataclasses
import functools
from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from ddit_jax.diffusion.masked_diffusion import log_probabilities
from ddit_jax.errors import check_bounds

_MOST = 100_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class LikelihoodConfig:
  """The effort of an estimate.

  Attributes:
    text_passes: network passes for each text, an even number.
    image_draws: independent estimates of each image, at least 2.
    ode_steps: Heun steps of each, of two network passes.
  """

  text_passes: int = 32
  image_draws: int = 4
  ode_steps: int = 32

  def __post_init__(self):
    check_bounds(self, text_passes=_MOST, image_draws=_MOST, ode_steps=_MOST)
    if self.text_passes % 2:
      raise ValueError(f"text_passes must be even, got {self.text_passes}")
    if self.image_draws < 2:
      raise ValueError(
        f"image_draws must be at least 2, got {self.image_draws}"
      )


@flax.struct.dataclass
class Bound:
  """Negative log-likelihoods of rows, in nats.

  Attributes:
    nats: unbiased estimates of upper bounds.
    standard_error: of `nats`, from the spread of its draws.
  """

  nats: Float[Array, " rows"]
  standard_error: Float[Array, " rows"]


def text_bound(
  predict: Callable[[Int[Array, "rows length"]], Array],
  tokens: Int[Array, "rows length"],
  is_given: Bool[Array, "rows length"],
  is_scored: Bool[Array, "rows length"],
  keys: Key[Array, " rows"],
  *,
  mask_id: int,
  num_passes: int,
) -> Bound:
  """Bounds -log p(scored tokens | given tokens).

  With the linear schedule the integral over t of eq. 7 is, in closed form, a
  mean over the number k of masked tokens:

    n E_k E_S [1/k sum_{i in S} -log p(x_i | all but S)],  k uniform in 1 ... n,

  where S are k of the n scored tokens, uniformly. So there is no error of a
  time grid. k is stratified: each of `num_passes` / 2 strata is drawn twice
  independently, and the difference of both draws gives the standard error.

  Args:
    predict: (tokens) -> logits, with the clean images at sigma 0 bound.
    tokens: ids.
    is_given: True where a token is always visible.
    is_scored: True where a token counts, disjoint from `is_given`. What is
      neither stays masked, and its id is not read.
    keys: randomness of each row, see `prng.row_keys`. Rows of equal keys and
      equal `is_scored` mask the same positions, so their differences vary less.
    mask_id: the token id that stands for a masked token.
    num_passes: calls of `predict`, even.
  """
  num_strata = num_passes // 2
  num_scored = is_scored.sum(axis=-1)

  def one_pass(_, number):
    time, order = _text_draws(keys, number, tokens.shape[1])
    time = (number // 2 + time) / num_strata
    count = jnp.floor(time * num_scored).astype(jnp.int32) + 1
    count = jnp.minimum(count, num_scored)
    ranks = jnp.argsort(jnp.argsort(jnp.where(is_scored, order, 2.0)))
    is_masked = is_scored & (ranks < count[:, None])
    is_visible = is_given | (is_scored & ~is_masked)
    log_p = log_probabilities(
      predict(jnp.where(is_visible, tokens, mask_id)), mask_id
    )
    chosen = jnp.take_along_axis(log_p, tokens[..., None], axis=-1)[..., 0]
    nats = -jnp.where(is_masked, chosen, 0.0).sum(axis=-1)
    return None, nats * num_scored / jnp.maximum(count, 1)

  # Else a gradient would hold the activations and logits of all passes.
  one_pass = jax.checkpoint(one_pass, prevent_cse=False)
  _, nats = jax.lax.scan(one_pass, None, jnp.arange(num_passes))
  pairs = nats.reshape(num_strata, 2, -1)
  variance = jnp.square(pairs[:, 0] - pairs[:, 1]).sum(axis=0) / 4
  return Bound(
    nats=nats.mean(axis=0), standard_error=jnp.sqrt(variance) / num_strata
  )


def bound_of_texts(
  model,
  variables,
  latents: Float[Array, "rows height width channels"] | None,
  tokens: Int[Array, "rows length"],
  is_given: Bool[Array, "rows length"],
  is_scored: Bool[Array, "rows length"],
  keys: Key[Array, " rows"],
  *,
  num_passes: int,
  has_image: Bool[Array, " rows"] | None = None,
) -> Bound:
  """`text_bound` of a model's texts about images.

  Args:
    model: see `dual.Model`.
    variables: of the model.
    latents: of the images, clean; None for text alone.
    tokens, is_given, is_scored, keys, num_passes: see `text_bound`.
    has_image: False where there is only text; None if all have an image.
  """
  clean_time = jnp.zeros(tokens.shape[0])

  def predict(state):
    condition = model.condition(variables, state)
    return model.predict(
      variables, latents, condition, clean_time, has_image=has_image
    ).logits

  return text_bound(
    predict,
    tokens,
    is_given,
    is_scored,
    keys,
    mask_id=model.mask_id,
    num_passes=num_passes,
  )


def _text_draws(
  keys: Key[Array, " rows"], number: Int[Array, ""], length: int
) -> tuple[Float[Array, " rows"], Float[Array, "rows length"]]:
  """One uniform per row, and one per position, each row's from its key."""

  def draw(key):
    key = jax.random.fold_in(key, number)
    uniforms = jax.random.uniform(key, (length + 1,))
    return uniforms[0], uniforms[1:]

  return jax.vmap(draw)(keys)


def image_bound(
  velocity: Callable[[Array, Float[Array, " rows"]], Array],
  latents: Float[Array, "rows height width channels"],
  keys: Key[Array, " rows"],
  *,
  num_steps: int,
  num_draws: int,
  bin_width: float,
) -> Bound:
  """-log p of each image by the flow's change of variables, nats a dimension.

  Along dx/dsigma = v the log density falls by the divergence of v, so

    log p(x_0) = log N(x_1; 0, I) + integral over sigma in [0, 1] of div v.

  The integral is taken by `num_steps` Heun steps on a uniform grid, and the
  divergence is Hutchinson's estimate with one Rademacher probe for each draw.
  The error of the steps is not part of the standard error: double them to see
  it.

  Args:
    velocity: (latents, sigma) -> velocity, with the prompts bound.
    latents: clean.
    keys: randomness of each row, see `prng.row_keys`.
    num_steps: Heun steps.
    num_draws: independent estimates, at least 2.
    bin_width: distance of the values that `latents` can take. Uniform noise of
      this width is added, and the result bounds -log of their probability. 0
      means continuous latents, and the result is -log of a density.
  """
  sizes = latents.shape[1:]
  num_dims = latents[0].size

  def one_draw(_, number):
    noise, probe = _image_draws(keys, number, sizes)
    end, divergence = _integrated(
      velocity, latents + bin_width * noise, probe, num_steps
    )
    log_prior = jax.scipy.stats.norm.logpdf(end).sum(axis=(1, 2, 3))
    return None, -(log_prior + divergence) / num_dims

  _, nats = jax.lax.scan(one_draw, None, jnp.arange(num_draws))
  if bin_width:
    nats = nats - jnp.log(bin_width)
  return Bound(
    nats=nats.mean(axis=0),
    standard_error=nats.std(axis=0, ddof=1) / jnp.sqrt(num_draws),
  )


def _image_draws(
  keys: Key[Array, " rows"], number: Int[Array, ""], sizes: tuple[int, ...]
) -> tuple[Array, Array]:
  """Noise in [-1/2, 1/2) and a Rademacher probe, each row's from its key."""

  def draw(key):
    first, second = jax.random.split(jax.random.fold_in(key, number))
    noise = jax.random.uniform(first, sizes, minval=-0.5, maxval=0.5)
    return noise, jax.random.rademacher(second, sizes, jnp.float32)

  return jax.vmap(draw)(keys)


def _integrated(
  velocity, start: Array, probe: Array, num_steps: int
) -> tuple[Array, Float[Array, " rows"]]:
  """(x_1, integral of the divergence) of rows that start at sigma 0."""

  def slope(latents, sigma):
    at_sigma = functools.partial(
      velocity, sigma=jnp.full((latents.shape[0],), sigma)
    )
    value, along = jax.jvp(at_sigma, (latents,), (probe,))
    divergence = (probe * along).sum(axis=(1, 2, 3))
    return value.astype(jnp.float32), divergence.astype(jnp.float32)

  def step(state, sigma):
    latents, total = state
    v, divergence = slope(latents, sigma)
    next_v, next_divergence = slope(
      latents + v / num_steps, sigma + 1 / num_steps
    )
    latents = latents + (v + next_v) / (2 * num_steps)
    total = total + (divergence + next_divergence) / (2 * num_steps)
    return (latents, total), None

  sigmas = jnp.arange(num_steps) / num_steps
  zeros = jnp.zeros(start.shape[0], jnp.float32)
  (end, divergence), _ = jax.lax.scan(step, (start, zeros), sigmas)
  return end, divergence
