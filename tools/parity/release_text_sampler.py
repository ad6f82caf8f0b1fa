"""The release's text sampler with recorded randomness, to replay its runs."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ddit_jax.diffusion.masked_diffusion import log_probabilities

_END_TIME = 1e-5


def states_of(
  predict: Callable[[jax.Array], jax.Array],
  start: jax.Array,
  uniforms: jax.Array,
  *,
  mask_id: int,
) -> tuple[jax.Array, jax.Array]:
  """One posterior draw for each of `uniforms`, then noise removal.

  Args:
    predict: tokens [batch, length] -> logits.
    start: partly masked tokens [batch, length].
    uniforms: of the Gumbel noise, [steps, batch, length, vocab].
    mask_id: the token id that stands for a masked token.

  Returns:
    Finished tokens, and those after each draw, [steps, batch, length].
  """
  times = jnp.linspace(1.0, _END_TIME, uniforms.shape[0] + 1)

  def step(state, inputs):
    t, s, uniform = inputs
    log_p = log_probabilities(predict(state), mask_id)
    chance = reveal_probability(t, s)
    state = draw(state, log_p, uniform, chance, mask_id=mask_id)
    return state, state

  inputs = (times[:-1], times[1:], uniforms)
  state, trace = jax.lax.scan(step, start, inputs)
  log_p = log_probabilities(predict(state), mask_id)
  return without_noise(state, log_p, mask_id=mask_id), trace


def draw(state, log_p, uniform, chance, *, mask_id: int) -> jax.Array:
  """Samples each masked position from its posterior, by the release's noise."""
  gumbel = -jnp.log(1e-10 - jnp.log(uniform + 1e-10))
  log_q = log_posterior(log_p, chance, mask_id=mask_id)
  sampled = jnp.argmax(log_q + gumbel, axis=-1).astype(state.dtype)
  return jnp.where(state == mask_id, sampled, state)


def without_noise(state, log_p, *, mask_id: int) -> jax.Array:
  """Replaces remaining masks by the most likely token."""
  best = jnp.argmax(log_p, axis=-1).astype(state.dtype)
  return jnp.where(state == mask_id, best, state)


def reveal_probability(
  t: Float[Array, "*dims"], s: Float[Array, "*dims"]
) -> Float[Array, "*dims"]:
  """The probability that a token masked at t is revealed by s < t (eq. 5)."""
  return (t - s) / t


def log_posterior(
  log_p: Float[Array, "*lead vocab"], chance: Float[Array, ""], *, mask_id: int
) -> Float[Array, "*lead vocab"]:
  """Log q(x_s | x_t masked) over the vocabulary (paper eq. 5).

  A token has `chance` times its probability; the mask has the rest.
  """
  ids = jax.lax.broadcasted_iota(jnp.int32, log_p.shape, log_p.ndim - 1)
  return jnp.where(ids == mask_id, jnp.log1p(-chance), jnp.log(chance) + log_p)
